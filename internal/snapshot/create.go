// Package snapshot makes an EBS snapshot of a mounted file system while that is frozen, waits until
// it is complete, and finds those that nobody needs any more.
package snapshot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"ebs-release/internal/freeze"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	smithytime "github.com/aws/smithy-go/time"
)

// EC2 is what this package asks of EC2, with the SDK's own signatures.
type EC2 interface {
	CreateSnapshot(context.Context, *ec2.CreateSnapshotInput, ...func(*ec2.Options)) (*ec2.CreateSnapshotOutput, error)
	DescribeSnapshots(context.Context, *ec2.DescribeSnapshotsInput, ...func(*ec2.Options)) (*ec2.DescribeSnapshotsOutput, error)
	DeleteSnapshot(context.Context, *ec2.DeleteSnapshotInput, ...func(*ec2.Options)) (*ec2.DeleteSnapshotOutput, error)
}

// Maker makes snapshots of one volume, whose file system Holder freezes.
type Maker struct {
	EC2      EC2
	VolumeID string
	OwnTags  map[string]string // of the account, see volume.ParseTags: every snapshot gets them
	Store    string            // whose snapshots they are: its id, for the tag; empty: no tag
	Holder   freeze.Holder
	Pause    time.Duration // before another try; 0: 16 s (EBS: a second snapshot of a volume within 15 s may be refused)
}

// Request is what a snapshot is of, for its tags, and how it is asked for.
type Request struct {
	Generation      int64
	Release, Digest string
	Committed       bool         // the pointer names this generation already
	Patient         bool         // the limits of EBS are waited out, too; else they are an error
	Frozen          func() error // called while nobody can write: an error ends it; may be nil
	Note            func(string) // told why there is another try; may be nil
}

// Made is a snapshot that counts: EC2 had answered before the thaw.
type Made struct {
	ID     string
	Frozen time.Duration // how long writers waited
}

// tries is how often Create freezes anew after an error of EC2 that may pass.
const tries = 3

// Check asks EC2 by DryRun whether CreateSnapshot would be allowed. It leaves the connection and
// the credentials warm.
func (m Maker) Check(ctx context.Context) error {
	in := m.input(Request{Generation: 1}, "")
	in.DryRun = aws.Bool(true)
	_, err := m.EC2.CreateSnapshot(ctx, in)
	switch {
	case err == nil:
		return fmt.Errorf("snapshot %s: EC2 carried out a call that had DryRun set", m.VolumeID)
	case volume.IsDryRun(err):
		return nil
	}
	return fmt.Errorf("snapshot %s: would not be allowed (ec2:CreateSnapshot, ec2:CreateTags): %w", m.VolumeID, err)
}

// Create freezes, has EC2 make the snapshot, and thaws. The snapshot is `pending` then, and holds
// what the file system held: EBS takes the data as of the request. When it returns an error there
// is no snapshot, or the error names it.
func (m Maker) Create(ctx context.Context, r Request) (Made, error) {
	pause := m.Pause
	if pause == 0 {
		pause = 16 * time.Second
	}
	for try := 1; ; try++ {
		made, err := m.create(ctx, r)
		if err == nil {
			return made, nil
		}
		if try == tries || ctx.Err() != nil || !mayPass(err) || volume.IsSnapshotLimit(err) && !r.Patient {
			return Made{}, err
		}
		if r.Note != nil {
			r.Note(fmt.Sprintf("%v; another freeze in %v", err, pause))
		}
		if err := smithytime.SleepWithContext(ctx, pause); err != nil {
			return Made{}, err
		}
	}
}

func (m Maker) create(ctx context.Context, r Request) (Made, error) {
	if err := m.Check(ctx); err != nil {
		return Made{}, err
	}
	hold, err := m.Holder.Freeze(ctx)
	if err != nil {
		return Made{}, err
	}
	if r.Frozen != nil {
		if err := r.Frozen(); err != nil {
			return Made{}, errors.Join(fmt.Errorf("snapshot %s: what is frozen is not what was asked for: %w", m.VolumeID, err), hold.Release())
		}
	}
	// One request, no retry by the SDK: CreateSnapshot has no client token, a second one would make
	// a second snapshot. It must answer while the guard still has time to be asked.
	callCtx, cancel := context.WithTimeout(ctx, m.Holder.Limit*8/10)
	try := rand.Text()
	out, err := m.EC2.CreateSnapshot(callCtx, m.input(r, try), func(o *ec2.Options) { o.Retryer = aws.NopRetryer{} })
	cancel()
	frozen := hold.For()
	thawErr := hold.Release()
	switch {
	case err == nil && thawErr == nil:
		return Made{ID: aws.ToString(out.SnapshotId), Frozen: frozen}, nil
	case err == nil:
		err = thawErr
	default:
		err = errors.Join(fmt.Errorf("snapshot %s while frozen: %w", m.VolumeID, err), thawErr)
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	return Made{}, errors.Join(err, m.deleteTry(clean, try))
}

func (m Maker) input(r Request, try string) *ec2.CreateSnapshotInput {
	all := map[string]string{
		volume.TagName:       "ebs-release " + r.Release,
		volume.TagRole:       volume.RoleRelease,
		volume.TagGeneration: strconv.FormatInt(r.Generation, 10),
		volume.TagRelease:    r.Release,
		volume.TagDigest:     r.Digest,
		volume.TagTry:        try,
	}
	maps.Copy(all, m.OwnTags) // Name may be one of them
	if r.Committed {
		all[volume.TagCommitted] = volume.Committed
	}
	if m.Store != "" {
		all[volume.TagStore] = m.Store
	}
	var tags []types.Tag
	for _, key := range slices.Sorted(maps.Keys(all)) {
		tags = append(tags, types.Tag{Key: aws.String(key), Value: aws.String(all[key])})
	}
	return &ec2.CreateSnapshotInput{
		VolumeId:          aws.String(m.VolumeID),
		Description:       aws.String(fmt.Sprintf("ebs-release generation %d, release %s", r.Generation, r.Release)),
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeSnapshot, Tags: tags}},
	}
}

// Delete deletes a snapshot; one that is gone already is fine.
func (m Maker) Delete(ctx context.Context, id string) error {
	_, err := m.EC2.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{SnapshotId: aws.String(id)})
	if err != nil && !volume.IsSnapshotNotFound(err) {
		return fmt.Errorf("delete snapshot %s: %w", id, err)
	}
	return nil
}

// deleteTry deletes what a request has made whose answer was lost, or came too late: there may be a
// snapshot whose id nobody knows.
func (m Maker) deleteTry(ctx context.Context, try string) error {
	filters := []types.Filter{
		{Name: aws.String("volume-id"), Values: []string{m.VolumeID}},
		{Name: aws.String("tag:" + volume.TagTry), Values: []string{try}},
	}
	pages := ec2.NewDescribeSnapshotsPaginator(m.EC2, &ec2.DescribeSnapshotsInput{
		OwnerIds: []string{"self"}, MaxResults: aws.Int32(volume.PerPage), Filters: filters,
	})
	var errs []error
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			err = fmt.Errorf("look for a left-over snapshot of %s with %s=%s: %w", m.VolumeID, volume.TagTry, try, err)
			return errors.Join(append(errs, err)...)
		}
		for _, s := range page.Snapshots {
			errs = append(errs, m.Delete(ctx, aws.ToString(s.SnapshotId)))
		}
	}
	return errors.Join(errs...)
}

// mayPass tells errors of EC2 that are worth another freeze: throttling, 5xx, a broken connection,
// no answer in time, and the limits of snapshots of a volume: one in 15 s, and how many are pending
// at a time.
func mayPass(err error) bool {
	return volume.IsSnapshotLimit(err) || errors.Is(err, context.DeadlineExceeded) || retry.NewStandard().IsErrorRetryable(err)
}
