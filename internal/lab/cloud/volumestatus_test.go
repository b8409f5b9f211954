package cloud

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// What EC2 says of a volume that EBS loads is up to five minutes old, and only a volume with a rate
// has an estimate.
func TestVolumeStatus(t *testing.T) {
	inLab(t, Options{Latency: LatencyTable{Initialized: 5 * time.Minute}}, func(l *lab) {
		snapshot := l.snapshot(l.volume())
		rate := l.volume(func(in *ec2.CreateVolumeInput) {
			in.SnapshotId, in.VolumeInitializationRate = &snapshot, aws.Int32(100)
		})
		lazy := l.volume(func(in *ec2.CreateVolumeInput) { in.SnapshotId = &snapshot })
		blank := l.volume()
		status := func(id string) types.VolumeStatusItem {
			out, err := l.ec2.DescribeVolumeStatus(l.ctx, &ec2.DescribeVolumeStatusInput{VolumeIds: []string{id}})
			l.ok(err)
			return out.VolumeStatuses[0]
		}
		progress := func(percent, want int, left int64) {
			t.Helper()
			l.hw.loads(rate, percent)
			got := status(rate).InitializationStatusDetails
			kind, seconds := got.InitializationType, *got.EstimatedTimeToCompleteInSeconds
			if kind != types.InitializationTypeProvisionedRate || *got.Progress != int64(want) || seconds != left {
				t.Errorf("%d percent: %s, %d, %d s", percent, kind, *got.Progress, seconds)
			}
		}
		progress(50, 0, 20)
		if s := status(rate).VolumeStatus.Status; s != types.VolumeStatusInfoStatusInsufficientData {
			t.Errorf("a new volume is %s", s)
		}
		time.Sleep(4 * time.Minute)
		progress(60, 0, 20)
		time.Sleep(90 * time.Second)
		progress(70, 60, 8)
		time.Sleep(10 * time.Minute)
		progress(100, 100, 0)
		if s := status(rate).VolumeStatus.Status; s != types.VolumeStatusInfoStatusOk {
			t.Errorf("it is %s", s)
		}
		got := status(lazy).InitializationStatusDetails
		if got.InitializationType != types.InitializationTypeDefault || got.EstimatedTimeToCompleteInSeconds != nil {
			t.Errorf("%+v", got)
		}
		if got := status(blank).InitializationStatusDetails; got != nil {
			t.Errorf("%+v", got)
		}
		for code, in := range map[string]ec2.DescribeVolumeStatusInput{
			"InvalidVolume.NotFound":      {VolumeIds: []string{"vol-0123456789abcdef0"}},
			"InvalidParameterCombination": {VolumeIds: []string{rate}, MaxResults: aws.Int32(5)},
		} {
			_, err := l.ec2.DescribeVolumeStatus(l.ctx, &in)
			l.wantCode(err, code)
		}
		all, err := l.ec2.DescribeVolumeStatus(l.ctx, &ec2.DescribeVolumeStatusInput{MaxResults: aws.Int32(5)})
		l.ok(err)
		if len(all.VolumeStatuses) != 4 {
			t.Errorf("%d volumes", len(all.VolumeStatuses))
		}
	})
}
