package snapshot

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	smithytime "github.com/aws/smithy-go/time"
)

// How WaitCompleted polls. The SDK's own waiter polls every 15 s; an incremental snapshot of a
// small change takes some seconds, a first one of many GiB minutes, so the gap is an eighth of the
// time waited so far.
const (
	shortestGap = 500 * time.Millisecond
	longestGap  = 10 * time.Second
	// unseenFor is how long "no such snapshot" is taken for EC2's eventual consistency (kubernetes
	// #77389).
	unseenFor = 30 * time.Second
)

// WaitCompleted returns when the snapshot is completed, which is when volumes made from it have all
// its data. It fails at once when EC2 says `error`; ctx sets the deadline. progress may be nil; it
// is told EC2's own figure ("38%") when that changes.
func (m Maker) WaitCompleted(ctx context.Context, id string, progress func(percent string)) error {
	start, last := time.Now(), ""
	for {
		snapshot, err := m.describe(ctx, id)
		switch {
		case err == nil && snapshot.State == types.SnapshotStateCompleted:
			return nil
		case err == nil && (snapshot.State == types.SnapshotStateError || snapshot.State == types.SnapshotStateRecoverable):
			return fmt.Errorf("snapshot %s is in state %s: %s",
				id, snapshot.State, orElse(aws.ToString(snapshot.StateMessage), "EC2 gives no reason; publish again"))
		case err == nil:
			if p := aws.ToString(snapshot.Progress); p != last {
				last = p
				if progress != nil {
					progress(p)
				}
			}
		case ctx.Err() != nil:
			return fmt.Errorf("wait for snapshot %s to be completed (%s so far): %w", id, orElse(last, "nothing known"), ctx.Err())
		case errors.Is(err, errUnseen) && time.Since(start) < unseenFor:
		case mayPass(err):
		default:
			return fmt.Errorf("wait for snapshot %s to be completed: %w", id, err)
		}
		gap := min(max(time.Since(start)/8, shortestGap), longestGap)
		if err := smithytime.SleepWithContext(ctx, gap*3/4+rand.N(gap/2)); err != nil {
			return fmt.Errorf("wait for snapshot %s to be completed (%s so far): %w", id, orElse(last, "nothing known"), err)
		}
	}
}

var errUnseen = errors.New("EC2 knows no such snapshot (deleted by someone?)")

func (m Maker) describe(ctx context.Context, id string) (types.Snapshot, error) {
	out, err := m.EC2.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{id}})
	switch {
	case volume.IsSnapshotNotFound(err), err == nil && len(out.Snapshots) == 0:
		return types.Snapshot{}, errUnseen
	case err != nil:
		return types.Snapshot{}, err
	}
	return out.Snapshots[0], nil
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
