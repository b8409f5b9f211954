package cloud

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func TestAttachVolumeIsAttachingThenAttached(t *testing.T) {
	inLab(t, Options{Latency: LatencyTable{Device: Fixed(time.Second), Attached: Fixed(3 * time.Second)}}, func(l *lab) {
		volume, instance := l.volume(), l.instance(RunSpec{})
		start := time.Now()
		out, err := l.ec2.AttachVolume(l.ctx, &ec2.AttachVolumeInput{VolumeId: &volume, InstanceId: &instance, Device: aws.String("/dev/xvdaa")})
		l.ok(err)
		if out.State != "attaching" || *out.VolumeId != volume || *out.InstanceId != instance || *out.Device != "/dev/xvdaa" || *out.DeleteOnTermination {
			t.Errorf("got %+v", out)
		}
		l.reaches(volume, "attached")
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("attached after %v", took)
		}
		if !l.hw.seen("attach " + volume + " " + instance) {
			t.Errorf("the machine has no disk: %v", l.hw.log())
		}
		seen, err := l.ec2.DescribeInstances(l.ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{instance}})
		l.ok(err)
		mapped := seen.Reservations[0].Instances[0].BlockDeviceMappings
		if len(mapped) != 2 || *mapped[0].DeviceName != "/dev/xvdaa" || *mapped[0].Ebs.VolumeId != volume || mapped[0].Ebs.Status != "attached" {
			t.Errorf("block device mapping %+v", mapped)
		}
	})
}

func TestAttachVolumeRefuses(t *testing.T) {
	latency := LatencyTable{Volume: Fixed(time.Second), Running: Fixed(5 * time.Second), Attached: Fixed(time.Second)}
	inLab(t, Options{Latency: latency, AttachLimits: map[string]int{"t9.tiny": 2}}, func(l *lab) {
		taken, instance := l.attached()
		free := l.volume()
		elsewhere := l.instance(RunSpec{Zone: "us-east-1b"})
		tiny := l.instance(RunSpec{Type: "t9.tiny"})
		l.ok(l.attach(l.volume(), tiny, "/dev/xvdba"))
		gone := l.instance(RunSpec{})
		l.ok(l.TerminateInstance(gone))
		out, err := l.ec2.CreateVolume(l.ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
		l.ok(err)
		creating := *out.VolumeId
		pending, err := l.RunInstance(l.ctx, RunSpec{})
		l.ok(err)
		for name, c := range map[string]struct{ volume, instance, device, code string }{
			"pending instance":       {free, pending, "/dev/xvdab", "IncorrectState"},
			"terminated instance":    {free, gone, "/dev/xvdab", "IncorrectState"},
			"unknown instance":       {free, "i-0123456789abcdef0", "/dev/xvdab", "InvalidInstanceID.NotFound"},
			"unknown volume":         {"vol-0123456789abcdef0", instance, "/dev/xvdab", "InvalidVolume.NotFound"},
			"creating volume":        {creating, instance, "/dev/xvdab", "IncorrectState"},
			"attached volume":        {taken, instance, "/dev/xvdab", "VolumeInUse"},
			"another zone":           {free, elsewhere, "/dev/xvdab", "InvalidVolume.ZoneMismatch"},
			"device name taken":      {free, instance, "/dev/xvdaa", "InvalidParameterValue"},
			"root device name":       {free, instance, "/dev/xvda", "InvalidParameterValue"},
			"not a device name":      {free, instance, "/dev/nvme1n1", "InvalidParameterValue"},
			"too many for this type": {free, tiny, "/dev/xvdab", "AttachmentLimitExceeded"},
			"no device name":         {free, instance, "", "MissingParameter"},
		} {
			if got := codeOf(l.attach(c.volume, c.instance, c.device)); got != c.code {
				t.Errorf("%s: got %q, want %q", name, got, c.code)
			}
		}
		l.reaches(pending, "running")
		l.ok(l.attach(free, pending, "/dev/xvdab"))
	})
}

// Row 7: sdf and xvdf are one slot for the guest.
func TestAliasOfATakenDeviceNameHangs(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		first, second, instance := l.volume(), l.volume(), l.instance(RunSpec{})
		l.ok(l.attach(first, instance, "/dev/sdf"))
		l.reaches(first, "attached")
		l.ok(l.attach(second, instance, "/dev/xvdf"))
		time.Sleep(10 * time.Minute)
		if got := l.state(second); got != "attaching" {
			t.Errorf("state %q, want attaching for ever", got)
		}
		_, err := l.ec2.DetachVolume(l.ctx, &ec2.DetachVolumeInput{VolumeId: &second})
		l.ok(err)
		l.reaches(second, "available")
		l.ok(l.attach(second, instance, "/dev/sdg"))
		l.reaches(second, "attached")
	})
}

func TestDetachVolume(t *testing.T) {
	inLab(t, Options{Latency: LatencyTable{Detach: Fixed(2 * time.Second)}}, func(l *lab) {
		volume, instance := l.attached()
		detach := func(in ec2.DetachVolumeInput) error {
			in.VolumeId = &volume
			_, err := l.ec2.DetachVolume(l.ctx, &in)
			return err
		}
		l.wantCode(detach(ec2.DetachVolumeInput{InstanceId: aws.String("i-0123456789abcdef0")}), "InvalidAttachment.NotFound")
		l.wantCode(detach(ec2.DetachVolumeInput{Device: aws.String("/dev/xvdbb")}), "InvalidAttachment.NotFound")
		l.wantCode(detach(ec2.DetachVolumeInput{DryRun: aws.Bool(true)}), "DryRunOperation")
		l.ok(detach(ec2.DetachVolumeInput{InstanceId: &instance}))
		if got := l.state(volume); got != "detaching" {
			t.Errorf("state %q", got)
		}
		l.wantCode(detach(ec2.DetachVolumeInput{}), "IncorrectState")
		l.reaches(volume, "available")
		l.wantCode(detach(ec2.DetachVolumeInput{}), "IncorrectState")
		if !l.hw.seen("detach " + volume + " " + instance) {
			t.Error("the machine still has the disk")
		}
	})
}

func TestDetachOfAMountedVolumeIsBusyUntilItIsFree(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		volume, _ := l.attached()
		l.hw.mu.Lock()
		l.hw.mounted[volume] = 5
		l.hw.mu.Unlock()
		_, err := l.ec2.DetachVolume(l.ctx, &ec2.DetachVolumeInput{VolumeId: &volume})
		l.ok(err)
		l.reaches(volume, "busy")
		l.reaches(volume, "available")
	})
}

func TestRootVolumeCannotBeDetached(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.instance(RunSpec{})
		root := l.Volumes()[0].ID
		_, err := l.ec2.DetachVolume(l.ctx, &ec2.DetachVolumeInput{VolumeId: &root})
		l.wantCode(err, "OperationNotPermitted")
	})
}

func TestDeleteOnTermination(t *testing.T) {
	inLab(t, Options{Latency: LatencyTable{Shutdown: Fixed(time.Second)}}, func(l *lab) {
		cattle, instance := l.attached()
		pet := l.volume()
		l.ok(l.attach(pet, instance, "/dev/xvdab"))
		protect := func(device string) error {
			_, err := l.ec2.ModifyInstanceAttribute(l.ctx, &ec2.ModifyInstanceAttributeInput{
				InstanceId: &instance,
				BlockDeviceMappings: []types.InstanceBlockDeviceMappingSpecification{
					{DeviceName: &device, Ebs: &types.EbsInstanceBlockDeviceSpecification{DeleteOnTermination: aws.Bool(true)}},
				},
			})
			return err
		}
		l.wantCode(protect("/dev/xvdzz"), "InvalidInstanceAttributeValue")
		l.ok(protect("/dev/xvdaa"))
		out, err := l.ec2.DescribeVolumes(l.ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{cattle}})
		l.ok(err)
		if !*out.Volumes[0].Attachments[0].DeleteOnTermination {
			t.Error("DeleteOnTermination is not set")
		}
		_, err = l.ec2.TerminateInstances(l.ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{instance}})
		l.ok(err)
		l.reaches(cattle, "")
		l.reaches(pet, "available")
		l.reaches(instance, "terminated")
		l.ok(l.Wait(l.ctx, func() bool { return len(l.Volumes()) == 1 })) // the root volume goes, too
		if !l.hw.seen("delete " + cattle) {
			t.Error("the disk is left")
		}
	})
}

func TestTerminationOvertakesAttachAndDetach(t *testing.T) {
	latency := LatencyTable{Device: Fixed(5 * time.Second), Attached: Fixed(5 * time.Second), Detach: Fixed(5 * time.Second), Shutdown: Fixed(time.Second)}
	inLab(t, Options{Latency: latency}, func(l *lab) {
		leaving, instance := l.attached()
		coming := l.volume()
		l.ok(l.attach(coming, instance, "/dev/xvdab"))
		_, err := l.ec2.DetachVolume(l.ctx, &ec2.DetachVolumeInput{VolumeId: &leaving})
		l.ok(err)
		l.ok(l.TerminateInstance(instance))
		l.reaches(instance, "terminated")
		time.Sleep(time.Minute)
		for _, id := range []string{leaving, coming} {
			if got := l.state(id); got != "available" {
				t.Errorf("%s is %q, want available", id, got)
			}
		}
	})
}

// TestModifyInstanceAttributeAsksForInstanceAndVolume: row 40. The policy sees which attribute is
// changed, and the volume's tags as well.
func TestModifyInstanceAttributeAsksForInstanceAndVolume(t *testing.T) {
	var asked []string
	policy := func(_ context.Context, c Check) bool {
		if c.Action == "ec2:ModifyInstanceAttribute" {
			asked = append(asked, fmt.Sprint(c.Resource, c.Conditions["ec2:Attribute"], c.Conditions["aws:ResourceTag/colour"]))
		}
		return !slices.Contains(c.Conditions["ec2:Attribute"], "UserData")
	}
	inLab(t, Options{Policy: policy}, func(l *lab) {
		volume, instance := l.attached()
		_, err := l.ec2.CreateTags(l.ctx, &ec2.CreateTagsInput{Resources: []string{volume}, Tags: []types.Tag{{Key: aws.String("colour"), Value: aws.String("red")}}})
		l.ok(err)
		_, err = l.ec2.ModifyInstanceAttribute(l.ctx, &ec2.ModifyInstanceAttributeInput{
			InstanceId: &instance,
			BlockDeviceMappings: []types.InstanceBlockDeviceMappingSpecification{{
				DeviceName: aws.String("/dev/xvdaa"), Ebs: &types.EbsInstanceBlockDeviceSpecification{DeleteOnTermination: aws.Bool(true)},
			}},
		})
		l.ok(err)
		want := []string{l.arn("instance", instance) + "[BlockDeviceMappings] []", l.arn("volume", volume) + "[] [red]"}
		if !slices.Equal(asked, want) {
			t.Errorf("asked %q, want %q", asked, want)
		}
		_, err = l.ec2.ModifyInstanceAttribute(l.ctx, &ec2.ModifyInstanceAttributeInput{InstanceId: &instance, UserData: &types.SecureBlobAttributeValue{Value: []byte("#!")}})
		l.wantCode(err, "UnauthorizedOperation")
	})
}
