// Package sweep removes what nobody needs from a release server, its store and its account. Here is
// what it looks at and how each thing goes; what is needed, and why, package gc decides.
package sweep

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/fleet"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/snapshot"
	"ebs-release/internal/store"
	"ebs-release/internal/volume"
	"ebs-release/internal/words"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// Volume is the release volume.
type Volume interface {
	Inventory() (gc.Volume, error)
	Remove(ctx context.Context, id string) error
	// LockPublish keeps publishes out of the volume until unlock.
	LockPublish() (unlock func() error, err error)
}

// Snapshots are those of the release volume, once the owner is known.
type Snapshots interface {
	List(ctx context.Context) ([]snapshot.Old, error)
	Delete(ctx context.Context, id string) error
}

// EC2 has the volumes of members.
type EC2 interface {
	fleet.Machines
	DeleteVolume(context.Context, *ec2.DeleteVolumeInput, ...func(*ec2.Options)) (*ec2.DeleteVolumeOutput, error)
}

// Reports are those of members in a store in S3.
type Reports interface {
	All(ctx context.Context) ([]store.Item, error)
	Remove(ctx context.Context, keys []string) error
}

// Sweeper is what looking and removing need.
type Sweeper struct {
	Store     *pointer.Store
	Volume    Volume
	Snapshots Snapshots
	EC2       EC2
	Reports   Reports // nil: the store is a directory
	Members   func(context.Context) ([]fleet.Member, error)
	Templates func(context.Context) (map[string]string, error) // see gc.Inventory
	// Owner finds the release volume, says which store it is of, and tells Snapshots; "": none yet.
	Owner func(context.Context) (string, error)

	Keep  int
	Grace time.Duration
	Since time.Time // of the signing keys: an older snapshot is of no use
	Began time.Time
}

// Item is something that nobody needs, or that somebody does.
type Item struct {
	Kind    string    `json:"kind"`
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	Why     string    `json:"why"`
	Removed bool      `json:"removed"`
	Error   string    `json:"error,omitempty"`

	keys []string // of the objects that it stands for
}

// Things is how many things it stands for.
func (i Item) Things() int { return max(1, len(i.keys)) }

// Plan is what would be removed, and what is kept.
type Plan struct {
	Generation  int64 // of the pointer
	Items, Kept []Item
}

// Plan looks, and decides. Without all of what there is nothing may be removed.
func (s Sweeper) Plan(ctx context.Context) (Plan, error) {
	found, err := s.look(ctx)
	if err != nil {
		return Plan{}, err
	}
	plan := Plan{Generation: found.pointer.Generation, Items: []Item{}, Kept: []Item{}}
	for _, i := range found.plan() {
		item := Item{Kind: i.Kind, ID: i.ID, Created: i.Created, Why: i.Why, keys: i.Keys}
		if i.Keep {
			plan.Kept = append(plan.Kept, item)
		} else {
			plan.Items = append(plan.Items, item)
		}
	}
	return plan, nil
}

// Lock keeps publishes out: of the store, and of the release volume, as a store in S3 is never
// locked.
func (s Sweeper) Lock(ctx context.Context, who string) (unlock func() error, err error) {
	store, err := s.Store.Lock(ctx, who)
	if errors.Is(err, pointer.ErrLocked) {
		err = exit.With(exit.Conflict, err)
	}
	if err != nil {
		return nil, err
	}
	volume, err := s.Volume.LockPublish()
	if err != nil {
		return nil, errors.Join(err, store())
	}
	return func() error { return errors.Join(volume(), store()) }, nil
}

// Remove removes items, and notes on each how that went. It goes on after an error: the rest may be
// removed all the same.
func (s Sweeper) Remove(ctx context.Context, items []Item) {
	for i := range items {
		item := &items[i]
		err := s.remove(ctx, *item)
		if item.Removed = err == nil; err != nil {
			item.Error = words.OneLine(err)
		}
	}
}

func (s Sweeper) remove(ctx context.Context, item Item) error {
	switch item.Kind {
	case gc.KindTree:
		return s.Volume.Remove(ctx, item.ID)
	case gc.KindSnapshot:
		return s.Snapshots.Delete(ctx, item.ID)
	case gc.KindVolume:
		_, err := s.EC2.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: aws.String(item.ID)})
		if volume.IsNotFound(err) {
			return nil
		}
		return err
	case gc.KindPack:
		return s.Store.Objects().Delete(ctx, item.ID)
	case gc.KindReports:
		return s.Reports.Remove(ctx, item.keys)
	case gc.KindRecord:
		return os.RemoveAll(item.ID)
	}
	return fmt.Errorf("nothing is known of the kind %q", item.Kind)
}

// Failed is the error of items that were to be removed.
func Failed(items []Item) error {
	failed, first := 0, ""
	for _, item := range items {
		if item.Error != "" {
			failed++
			if first == "" {
				first = fmt.Sprintf("%s %s: %s", item.Kind, item.ID, item.Error)
			}
		}
	}
	if failed == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d things could not be removed, such as %s", failed, len(items), first)
}
