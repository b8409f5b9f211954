package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"ebs-release/internal/fleet"
	"ebs-release/internal/pointer"
	"ebs-release/internal/report"
	"ebs-release/internal/store"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"golang.org/x/sync/errgroup"
)

// members is the fleet of some groups. It is publish.Fleet.
type members struct {
	asg     *autoscaling.Client
	ec2     *ec2.Client
	groups  []string
	objects *objects // nil: the store is a directory, and members have nothing but tags
}

func newMembers(cfg aws.Config, groups []string, from *pointer.Store) members {
	m := members{asg: autoscaling.NewFromConfig(cfg), ec2: ec2.NewFromConfig(cfg), groups: groups}
	if bucket, ok := from.Objects().(*store.S3); ok {
		m.objects = &objects{pointer: from, bucket: bucket, reader: report.NewReader(bucket)}
	}
	return m
}

func (m members) List(ctx context.Context) ([]fleet.Member, error) {
	return fleet.List(ctx, m.asg, m.ec2, m.reports(), m.groups)
}

// Warmed lists the instances of the groups' warm pools.
func (m members) Warmed(ctx context.Context) ([]fleet.Member, error) {
	return fleet.Warmed(ctx, m.asg, m.ec2, m.reports(), m.groups)
}

// reports is nil where members report by tags alone.
func (m members) reports() fleet.Reports {
	if m.objects == nil {
		return nil
	}
	return m.objects
}

// Report writes where a member reports itself: an object in its name, so that the next listing
// finds one of it near the pointer's generation; else tags.
func (m members) Report(ctx context.Context, tagged []string, generation int64, release, state string) error {
	var err error
	if m.objects != nil {
		tagged, err = m.objects.report(ctx, tagged, generation, release, cmp.Or(state, volume.StateReady))
	}
	if len(tagged) == 0 {
		return err
	}
	return errors.Join(err, fleet.Report(ctx, m.ec2, tagged, generation, release, state))
}

// objects are the reports in a store in S3. It is fleet.Reports.
type objects struct {
	pointer *pointer.Store
	bucket  *store.S3
	reader  *report.Reader

	mu   sync.Mutex
	last map[string]report.Report // by volume
}

func (o *objects) Newest(ctx context.Context, members map[string]report.Wanted) (map[string]report.Report, error) {
	current, err := o.pointer.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the pointer: %w", err)
	}
	found, err := o.reader.Newest(ctx, current.Generation, members)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last = map[string]report.Report{}
	for _, r := range found {
		o.last[r.VolumeID] = r
	}
	return found, nil
}

// report writes for the members of some volumes, and returns the volumes of those that have never
// reported to the store.
func (o *objects) report(ctx context.Context, volumeIDs []string, generation int64, release, state string) (others []string, err error) {
	group := errgroup.Group{} // one that fails ends no other
	group.SetLimit(reportsAtOnce)
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, id := range volumeIDs {
		r, is := o.last[id]
		if !is {
			others = append(others, id)
			continue
		}
		r.Generation, r.Release, r.State = generation, release, state
		group.Go(func() error { return report.Put(ctx, o.bucket, r) })
	}
	return others, group.Wait()
}

// All is sweep.Reports's.
func (o *objects) All(ctx context.Context) ([]store.Item, error) { return report.All(ctx, o.bucket) }

// Remove is sweep.Reports's.
func (o *objects) Remove(ctx context.Context, keys []string) error {
	group := errgroup.Group{}
	group.SetLimit(reportsAtOnce)
	for _, key := range keys {
		group.Go(func() error { return o.bucket.Delete(ctx, key) })
	}
	return group.Wait()
}

const reportsAtOnce = 16
