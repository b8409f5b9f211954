package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Old is a snapshot that an earlier publish made.
type Old struct {
	ID         string
	Generation int64 // that it was made for, committed or not; 0: its tag says no number
	Release    string
	Digest     string // empty: made before snapshots said it
	Store      string // whose it is; empty: made before stores had ids
	Started    time.Time
	State      types.SnapshotState
}

// List returns the release snapshots of the volume, oldest first.
func (m Maker) List(ctx context.Context) ([]Old, error) {
	found, err := list(ctx, m.EC2, types.Filter{Name: aws.String("volume-id"), Values: []string{m.VolumeID}})
	if err != nil {
		return nil, fmt.Errorf("list the release snapshots of %s: %w", m.VolumeID, err)
	}
	return found, nil
}

// All returns the release snapshots of the account in this Region, of any volume and store, oldest
// first. Who may make one is guarded by its tag (packaging/iam).
func All(ctx context.Context, api ec2.DescribeSnapshotsAPIClient) ([]Old, error) {
	found, err := list(ctx, api)
	if err != nil {
		return nil, fmt.Errorf("list the release snapshots of this account: %w", err)
	}
	return found, nil
}

// NewestCommitted returns the snapshot of the highest generation that the pointer of a store has
// named: one that was made before its commit does not count, as that commit may have failed. None:
// an Old without an ID.
func NewestCommitted(ctx context.Context, api ec2.DescribeSnapshotsAPIClient, store string) (newest Old, err error) {
	found, err := list(ctx, api,
		types.Filter{Name: aws.String("tag:" + volume.TagStore), Values: []string{store}},
		types.Filter{Name: aws.String("tag:" + volume.TagCommitted), Values: []string{volume.Committed}})
	if err != nil {
		return Old{}, fmt.Errorf("look for the newest release snapshot of store %s: %w", store, err)
	}
	for _, o := range found {
		if o.Generation > newest.Generation {
			newest = o
		}
	}
	return newest, nil
}

func list(ctx context.Context, api ec2.DescribeSnapshotsAPIClient, more ...types.Filter) (found []Old, err error) {
	pages := ec2.NewDescribeSnapshotsPaginator(api, &ec2.DescribeSnapshotsInput{
		OwnerIds:   []string{"self"},
		MaxResults: aws.Int32(volume.PerPage),
		Filters:    append(more, types.Filter{Name: aws.String("tag:" + volume.TagRole), Values: []string{volume.RoleRelease}}),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, s := range page.Snapshots {
			o := Old{ID: aws.ToString(s.SnapshotId), Started: aws.ToTime(s.StartTime), State: s.State}
			for _, t := range s.Tags {
				switch aws.ToString(t.Key) {
				case volume.TagGeneration:
					o.Generation, _ = volume.ParseGeneration(aws.ToString(t.Value))
				case volume.TagStore:
					o.Store = aws.ToString(t.Value)
				case volume.TagRelease:
					o.Release = aws.ToString(t.Value)
				case volume.TagDigest:
					o.Digest = aws.ToString(t.Value)
				}
			}
			found = append(found, o)
		}
	}
	slices.SortFunc(found, func(a, b Old) int {
		return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.Generation, b.Generation), cmp.Compare(a.ID, b.ID))
	})
	return found, nil
}

// Usable says whether a snapshot is there and completed.
func (m Maker) Usable(ctx context.Context, id string) (bool, error) {
	s, err := m.describe(ctx, id)
	switch {
	case errors.Is(err, errUnseen):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look at snapshot %s: %w", id, err)
	}
	return s.State == types.SnapshotStateCompleted, nil
}

// CheckDelete asks EC2 by DryRun whether DeleteSnapshot would be allowed for a snapshot that
// exists.
func (m Maker) CheckDelete(ctx context.Context, id string) error {
	_, err := m.EC2.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{DryRun: aws.Bool(true), SnapshotId: aws.String(id)})
	switch {
	case err == nil:
		return fmt.Errorf("delete snapshot %s: EC2 carried out a call that had DryRun set", id)
	case volume.IsDryRun(err):
		return nil
	}
	return fmt.Errorf("delete snapshot %s: would not be allowed (ec2:DeleteSnapshot): %w", id, err)
}
