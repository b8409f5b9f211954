package snapshot_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/snapshot"
	"ebs-release/internal/test/scratch"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
)

// fakeEC2 has a func per call; a nil one is a call that the test does not expect.
type fakeEC2 struct {
	create   func(context.Context, *ec2.CreateSnapshotInput) (string, error)
	describe func(*ec2.DescribeSnapshotsInput) ([]types.Snapshot, error)
	deleted  []string
}

func (f *fakeEC2) CreateSnapshot(ctx context.Context, in *ec2.CreateSnapshotInput, _ ...func(*ec2.Options)) (*ec2.CreateSnapshotOutput, error) {
	if aws.ToBool(in.DryRun) {
		return nil, apiError("DryRunOperation")
	}
	id, err := f.create(ctx, in)
	return &ec2.CreateSnapshotOutput{SnapshotId: aws.String(id)}, err
}

func (f *fakeEC2) DescribeSnapshots(_ context.Context, in *ec2.DescribeSnapshotsInput, _ ...func(*ec2.Options)) (*ec2.DescribeSnapshotsOutput, error) {
	snapshots, err := f.describe(in)
	return &ec2.DescribeSnapshotsOutput{Snapshots: snapshots}, err
}

func (f *fakeEC2) DeleteSnapshot(_ context.Context, in *ec2.DeleteSnapshotInput, _ ...func(*ec2.Options)) (*ec2.DeleteSnapshotOutput, error) {
	f.deleted = append(f.deleted, aws.ToString(in.SnapshotId))
	return &ec2.DeleteSnapshotOutput{}, nil
}

func apiError(code string) error {
	return &smithy.GenericAPIError{Code: code, Message: "said by the test"}
}

var request = snapshot.Request{Generation: 7, Release: "r", Digest: "d", Patient: true}

func maker(api snapshot.EC2, path string, limit time.Duration) snapshot.Maker {
	return snapshot.Maker{EC2: api, VolumeID: "vol-1", Holder: scratch.Holder(path, limit), Pause: time.Millisecond}
}

func TestSnapshotIsTakenWhileFrozen(t *testing.T) {
	path := disk(t)
	api := &fakeEC2{create: func(_ context.Context, in *ec2.CreateSnapshotInput) (string, error) {
		if !scratch.Frozen(t, path) {
			t.Error("CreateSnapshot was called on a file system that is not frozen")
		}
		tags := map[string]string{}
		for _, tag := range in.TagSpecifications[0].Tags {
			tags[aws.ToString(tag.Key)] = aws.ToString(tag.Value)
		}
		if tags["ebs-release:role"] != "release" || tags["ebs-release:generation"] != "7" || tags["ebs-release:release"] != "r" {
			t.Errorf("tags = %v", tags)
		}
		return "snap-7", nil
	}}
	made, err := maker(api, path, 5*time.Second).Create(t.Context(), request)
	if err != nil || made.ID != "snap-7" || made.Frozen <= 0 {
		t.Errorf("Create() = %+v, %v", made, err)
	}
	if scratch.Frozen(t, path) {
		t.Error("left frozen")
	}
}

func TestWhatIsFrozenIsLookedAt(t *testing.T) {
	path := disk(t)
	other := errors.New("another release")
	asked := request
	asked.Frozen = func() error {
		if !scratch.Frozen(t, path) {
			t.Error("it was looked at before it was frozen")
		}
		return other
	}
	if _, err := maker(&fakeEC2{}, path, 5*time.Second).Create(t.Context(), asked); !errors.Is(err, other) {
		t.Errorf("Create() = %v", err)
	}
	if scratch.Frozen(t, path) {
		t.Error("left frozen")
	}
}

func TestAnswerAfterTheThawDoesNotCount(t *testing.T) {
	path := disk(t)
	late := "snap-late"
	api := &fakeEC2{
		create: func(context.Context, *ec2.CreateSnapshotInput) (string, error) {
			scratch.WritableWithin(t, path, 5*time.Second) // the guard has thawed at its limit
			return late, nil
		},
		describe: func(in *ec2.DescribeSnapshotsInput) ([]types.Snapshot, error) {
			last := in.Filters[len(in.Filters)-1] // by nothing that another snapshot of this generation has, too
			if aws.ToString(last.Name) != "tag:ebs-release:try" || len(last.Values[0]) < 20 {
				t.Errorf("looked for what was made by %s=%v", aws.ToString(last.Name), last.Values)
			}
			return []types.Snapshot{{SnapshotId: &late}}, nil
		},
	}
	_, err := maker(api, path, 200*time.Millisecond).Create(t.Context(), request)
	if err == nil || !strings.Contains(err.Error(), "did not last: thawed: the limit") {
		t.Errorf("Create() = %v", err)
	}
	if len(api.deleted) != 1 || api.deleted[0] != late {
		t.Errorf("deleted %v, want the snapshot that does not count", api.deleted)
	}
}

func TestHangingAPIEndsTheFreezeInTime(t *testing.T) {
	path := disk(t)
	calls := 0
	api := &fakeEC2{
		create: func(ctx context.Context, _ *ec2.CreateSnapshotInput) (string, error) {
			calls++
			<-ctx.Done()
			return "", ctx.Err()
		},
		describe: func(*ec2.DescribeSnapshotsInput) ([]types.Snapshot, error) { return nil, nil },
	}
	_, err := maker(api, path, 200*time.Millisecond).Create(t.Context(), request)
	if !errors.Is(err, context.DeadlineExceeded) || calls != 3 {
		t.Errorf("Create() = %v after %d calls, want a deadline after 3", err, calls)
	}
	if scratch.Frozen(t, path) {
		t.Error("left frozen")
	}
}

func TestErrorsThatPassAreTriedAgainAndOthersAreNot(t *testing.T) {
	path := disk(t)
	for _, tc := range []struct {
		code  string
		calls int
	}{
		{"RequestLimitExceeded", 3},
		{"SnapshotCreationPerVolumeRateExceeded", 3},
		{"ConcurrentSnapshotLimitExceeded", 3},
		{"UnauthorizedOperation", 1},
	} {
		calls := 0
		api := &fakeEC2{
			create:   func(context.Context, *ec2.CreateSnapshotInput) (string, error) { calls++; return "", apiError(tc.code) },
			describe: func(*ec2.DescribeSnapshotsInput) ([]types.Snapshot, error) { return nil, nil },
		}
		notes, noted := 0, request
		noted.Note = func(string) { notes++ }
		_, err := maker(api, path, 5*time.Second).Create(t.Context(), noted)
		if err == nil || !strings.Contains(err.Error(), tc.code) || calls != tc.calls || notes != calls-1 {
			t.Errorf("%s: Create() = %v after %d calls and %d notes, want %d", tc.code, err, calls, notes, tc.calls)
		}
	}
	calls := 0
	api := &fakeEC2{
		create: func(context.Context, *ec2.CreateSnapshotInput) (string, error) {
			calls++
			return "", apiError("SnapshotCreationPerVolumeRateExceeded")
		},
		describe: func(*ec2.DescribeSnapshotsInput) ([]types.Snapshot, error) { return nil, nil },
	}
	if _, err := maker(api, path, 5*time.Second).Create(t.Context(), snapshot.Request{Generation: 7}); err == nil || calls != 1 {
		t.Errorf("nobody who waits for it: Create() = %v after %d calls, want 1", err, calls)
	}
	if scratch.Frozen(t, path) {
		t.Error("left frozen")
	}
}

func TestInterruptedCreateThawsAndLeavesNoSnapshot(t *testing.T) {
	path := disk(t)
	ctx, cancel := context.WithCancel(t.Context())
	made := "snap-unknown"
	api := &fakeEC2{
		create: func(ctx context.Context, _ *ec2.CreateSnapshotInput) (string, error) {
			cancel()
			<-ctx.Done()
			return "", ctx.Err()
		},
		describe: func(*ec2.DescribeSnapshotsInput) ([]types.Snapshot, error) {
			return []types.Snapshot{{SnapshotId: &made}}, nil
		},
	}
	_, err := maker(api, path, 5*time.Second).Create(ctx, request)
	if !errors.Is(err, context.Canceled) || len(api.deleted) != 1 {
		t.Errorf("Create() = %v, deleted %v", err, api.deleted)
	}
	if scratch.Frozen(t, path) {
		t.Error("left frozen")
	}
}

func TestWaitCompletedReportsProgressAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := []types.Snapshot{
			{}, // not found yet
			{State: types.SnapshotStatePending, Progress: aws.String("0%")},
			{State: types.SnapshotStatePending, Progress: aws.String("38%")},
			{State: types.SnapshotStatePending, Progress: aws.String("38%")},
			{State: types.SnapshotStateCompleted, Progress: aws.String("100%")},
		}
		api := &fakeEC2{describe: func(*ec2.DescribeSnapshotsInput) ([]types.Snapshot, error) {
			answer := answers[0]
			answers = answers[1:]
			if answer.State == "" {
				return nil, apiError("InvalidSnapshot.NotFound")
			}
			return []types.Snapshot{answer}, nil
		}}
		var told []string
		err := snapshot.Maker{EC2: api}.WaitCompleted(t.Context(), "snap-1", func(p string) { told = append(told, p) })
		if err != nil || strings.Join(told, " ") != "0% 38%" {
			t.Errorf("WaitCompleted() = %v, told %v", err, told)
		}
	})
}

func TestWaitCompletedFails(t *testing.T) {
	for _, tc := range []struct {
		name     string
		snapshot types.Snapshot
		err      error
		want     string
		within   time.Duration
	}{
		{"at once on error", types.Snapshot{State: types.SnapshotStateError, StateMessage: aws.String("KMS says no")}, nil, "KMS says no", 0},
		{"soon when it is not there", types.Snapshot{}, apiError("InvalidSnapshot.NotFound"), "no such snapshot", 45 * time.Second},
		{"at once when not allowed", types.Snapshot{}, apiError("UnauthorizedOperation"), "UnauthorizedOperation", 0},
		{"at the deadline", types.Snapshot{State: types.SnapshotStatePending, Progress: aws.String("3%")}, nil, "(3% so far)", 10 * time.Minute},
		{"at the deadline when throttled", types.Snapshot{}, apiError("RequestLimitExceeded"), "nothing known", 10 * time.Minute},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				api := &fakeEC2{describe: func(*ec2.DescribeSnapshotsInput) ([]types.Snapshot, error) {
					return []types.Snapshot{tc.snapshot}, tc.err
				}}
				start := time.Now()
				err := snapshot.Maker{EC2: api}.WaitCompleted(ctx, "snap-1", nil)
				if err == nil || !strings.Contains(err.Error(), tc.want) || time.Since(start) > tc.within {
					t.Errorf("WaitCompleted() = %v after %v, want %q within %v", err, time.Since(start), tc.want, tc.within)
				}
			})
		})
	}
}
