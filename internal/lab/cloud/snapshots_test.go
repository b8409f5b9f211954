package cloud

import (
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func TestSnapshotIsPendingThenCompleted(t *testing.T) {
	inLab(t, Options{Latency: LatencyTable{Snapshot: Fixed(20 * time.Second)}}, func(l *lab) {
		volume := l.volume()
		out, err := l.ec2.CreateSnapshot(l.ctx, &ec2.CreateSnapshotInput{
			VolumeId: &volume, Description: aws.String("generation 7"), TagSpecifications: tags("snapshot", "ebs-release:generation", "7"),
		})
		l.ok(err)
		if out.State != "pending" || *out.Progress != "0%" || *out.VolumeSize != 2 || *out.VolumeId != volume || tagMap(out.Tags)["ebs-release:generation"] != "7" {
			t.Errorf("got %+v", out)
		}
		if !l.hw.seen("snapshot " + volume) {
			t.Error("answered before the point in time was taken")
		}
		seen := map[string]bool{}
		for range 25 {
			time.Sleep(time.Second)
			now, err := l.ec2.DescribeSnapshots(l.ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{*out.SnapshotId}})
			l.ok(err)
			seen[fmt.Sprint(now.Snapshots[0].State, " ", *now.Snapshots[0].Progress)] = true
		}
		for _, state := range []string{"pending 0%", "pending 40%", "completed 100%"} {
			if !seen[state] {
				t.Errorf("never %s: %v", state, seen)
			}
		}
		waiter := ec2.NewSnapshotCompletedWaiter(l.ec2)
		l.ok(waiter.Wait(l.ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{*out.SnapshotId}}, time.Minute))
	})
}

func TestPendingSnapshotsOfOneVolumeAreLimited(t *testing.T) {
	inLab(t, Options{Latency: LatencyTable{Snapshot: Fixed(10 * time.Minute)}}, func(l *lab) {
		volume := l.volume()
		create := func() error {
			_, err := l.ec2.CreateSnapshot(l.ctx, &ec2.CreateSnapshotInput{VolumeId: &volume})
			return err
		}
		for range 5 {
			l.ok(create())
			time.Sleep(snapshotInterval)
		}
		l.wantCode(create(), "ConcurrentSnapshotLimitExceeded")
		time.Sleep(10 * time.Minute)
		l.ok(create())
	})
}

// TestWhatCountsAsAPendingSnapshot: how many a volume may have hangs on its type, and what was
// deleted, or failed, counts as well.
func TestWhatCountsAsAPendingSnapshot(t *testing.T) {
	const upload = 10 * time.Minute
	inLab(t, Options{Latency: LatencyTable{Snapshot: Fixed(upload)}}, func(l *lab) {
		create := func(volume string) (string, error) {
			defer time.Sleep(snapshotInterval)
			out, err := l.ec2.CreateSnapshot(l.ctx, &ec2.CreateSnapshotInput{VolumeId: &volume})
			if err != nil {
				return "", err
			}
			return *out.SnapshotId, nil
		}
		remove := func(snapshot string) {
			_, err := l.ec2.DeleteSnapshot(l.ctx, &ec2.DeleteSnapshotInput{SnapshotId: &snapshot})
			l.ok(err)
		}
		refused := func(volume string) {
			t.Helper()
			_, err := create(volume)
			l.wantCode(err, "ConcurrentSnapshotLimitExceeded")
		}
		for _, slow := range []types.VolumeType{types.VolumeTypeSt1, types.VolumeTypeSc1} {
			volume := l.volume(func(in *ec2.CreateVolumeInput) { in.VolumeType, in.Size = slow, aws.Int32(125) })
			first, err := create(volume)
			l.ok(err)
			refused(volume)
			remove(first)
			refused(volume) // its upload goes on
			time.Sleep(upload)
			_, err = create(volume)
			l.ok(err)
		}

		volume := l.volume()
		heal := l.Fault(Fault{Action: "CreateSnapshot", Effect: Effect{Disk: DiskFault{Error: true}}})
		bad, err := create(volume)
		l.ok(err)
		heal()
		l.reaches(bad, "error")
		for range 4 {
			_, err := create(volume)
			l.ok(err)
		}
		refused(volume)
		remove(bad) // nothing of it is uploaded any more
		_, err = create(volume)
		l.ok(err)
	})
}

func TestSnapshotsOfOneVolumeAreRateLimited(t *testing.T) {
	inLab(t, Options{Latency: LatencyTable{Snapshot: Fixed(time.Minute)}}, func(l *lab) {
		volume := l.volume()
		create := func() error {
			_, err := l.ec2.CreateSnapshot(l.ctx, &ec2.CreateSnapshotInput{VolumeId: &volume})
			return err
		}
		l.ok(create())
		l.wantCode(create(), "SnapshotCreationPerVolumeRateExceeded")
		time.Sleep(snapshotInterval)
		l.ok(create())
	})
}

func TestDescribeSnapshots(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		volume, other := l.volume(), l.volume()
		first, second := l.snapshot(volume), l.snapshot(other)
		for name, c := range map[string]struct {
			in   ec2.DescribeSnapshotsInput
			want string
		}{
			"own":       {ec2.DescribeSnapshotsInput{OwnerIds: []string{"self"}}, first + " " + second + " "},
			"foreign":   {ec2.DescribeSnapshotsInput{OwnerIds: []string{"999999999999"}}, ""},
			"of volume": {ec2.DescribeSnapshotsInput{Filters: []types.Filter{{Name: aws.String("volume-id"), Values: []string{other}}}}, second + " "},
			"by status": {ec2.DescribeSnapshotsInput{Filters: []types.Filter{{Name: aws.String("status"), Values: []string{"pending"}}}}, ""},
			"by id":     {ec2.DescribeSnapshotsInput{SnapshotIds: []string{first}}, first + " "},
			"paged":     {ec2.DescribeSnapshotsInput{MaxResults: aws.Int32(5)}, first + " " + second + " "},
		} {
			pages, got := ec2.NewDescribeSnapshotsPaginator(l.ec2, &c.in), ""
			for pages.HasMorePages() {
				out, err := pages.NextPage(l.ctx)
				l.ok(err)
				for _, s := range out.Snapshots {
					got += *s.SnapshotId + " "
				}
			}
			if got != c.want {
				t.Errorf("%s: got %q, want %q", name, got, c.want)
			}
		}
	})
}

func TestDeleteSnapshot(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		snapshot := l.snapshot(l.volume())
		del := func() error {
			_, err := l.ec2.DeleteSnapshot(l.ctx, &ec2.DeleteSnapshotInput{SnapshotId: &snapshot})
			return err
		}
		made, err := l.ec2.CreateVolume(l.ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), SnapshotId: &snapshot})
		l.ok(err)
		l.ok(del()) // while a volume is being made from it: the harness fails when hardware deletes it first
		l.reaches(*made.VolumeId, "available")
		l.wantCode(del(), "InvalidSnapshot.NotFound")
		_, err = l.ec2.DescribeSnapshots(l.ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{snapshot}})
		l.wantCode(err, "InvalidSnapshot.NotFound")
	})
}

func TestSnapshotRefuses(t *testing.T) {
	inLab(t, Options{Latency: LatencyTable{Volume: Fixed(time.Second)}}, func(l *lab) {
		out, err := l.ec2.CreateVolume(l.ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
		l.ok(err)
		for volume, code := range map[string]string{*out.VolumeId: "IncorrectState", "vol-0123456789abcdef0": "InvalidVolume.NotFound"} {
			_, err := l.ec2.CreateSnapshot(l.ctx, &ec2.CreateSnapshotInput{VolumeId: &volume})
			l.wantCode(err, code)
		}
	})
}
