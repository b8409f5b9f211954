package cloud

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

func TestEncryptionByDefault(t *testing.T) {
	const mine, other = "arn:aws:kms:us-east-1:123456789012:key/mine", "arn:aws:kms:us-east-1:123456789012:key/other"
	inLab(t, Options{KMSKeys: []string{mine}}, func(l *lab) {
		plain := l.volume()
		made, err := l.ec2.CreateSnapshot(l.ctx, &ec2.CreateSnapshotInput{VolumeId: &plain})
		l.ok(err)
		snapshot := made.SnapshotId
		waiter := ec2.NewSnapshotCompletedWaiter(l.ec2)
		l.ok(waiter.Wait(l.ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{*snapshot}}, time.Minute))
		create := func() *ec2.CreateVolumeOutput {
			v, err := l.ec2.CreateVolume(l.ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), SnapshotId: snapshot})
			l.ok(err)
			return v
		}
		says := func(enabled bool, key string) {
			t.Helper()
			is, err := l.ec2.GetEbsEncryptionByDefault(l.ctx, &ec2.GetEbsEncryptionByDefaultInput{})
			l.ok(err)
			with, err := l.ec2.GetEbsDefaultKmsKeyId(l.ctx, &ec2.GetEbsDefaultKmsKeyIdInput{})
			l.ok(err)
			if *is.EbsEncryptionByDefault != enabled || *with.KmsKeyId != key {
				t.Errorf("%v with %s, want %v with %s", *is.EbsEncryptionByDefault, *with.KmsKeyId, enabled, key)
			}
		}
		says(false, "alias/aws/ebs")
		if v := create(); *v.Encrypted {
			t.Errorf("encrypted with %s", aws.ToString(v.KmsKeyId))
		}
		l.EncryptByDefault(mine)
		says(true, mine)
		if v := create(); !*v.Encrypted || aws.ToString(v.KmsKeyId) != mine {
			t.Errorf("%v with %s, want %s", *v.Encrypted, aws.ToString(v.KmsKeyId), mine)
		}
		l.EncryptByDefault(other) // which nobody may use: row 3
		gone := create()
		time.Sleep(time.Minute)
		_, err = l.ec2.DescribeVolumes(l.ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{*gone.VolumeId}})
		l.wantCode(err, "InvalidVolume.NotFound")
	})
}
