package fleet_test

import (
	"context"
	"testing"

	"ebs-release/internal/fleet"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// orphanage answers with all volumes of the role, as if the filter for the state did not work: the
// code has to look itself, too.
type orphanage struct {
	account
	failing string // the call that fails
}

func (o *orphanage) DescribeVolumes(_ context.Context, in *ec2.DescribeVolumesInput, _ ...func(*ec2.Options)) (*ec2.DescribeVolumesOutput, error) {
	if o.failing == "volumes" {
		return nil, errBoom{}
	}
	page, next := cut(o.volumes, in.NextToken)
	return &ec2.DescribeVolumesOutput{Volumes: page, NextToken: next}, nil
}

func (o *orphanage) DescribeInstances(ctx context.Context, in *ec2.DescribeInstancesInput, more ...func(*ec2.Options)) (*ec2.DescribeInstancesOutput, error) {
	if o.failing == "instances" {
		return nil, errBoom{}
	}
	return o.account.DescribeInstances(ctx, in, more...)
}

type errBoom struct{}

func (errBoom) Error() string { return "boom" }

func TestOrphansAreVolumesOfInstancesThatAreGone(t *testing.T) {
	made := func(id, instance string, attached bool) types.Volume {
		v := types.Volume{VolumeId: &id, Tags: []types.Tag{{Key: aws.String(volume.TagInstance), Value: &instance}}}
		if attached {
			v.Attachments = []types.VolumeAttachment{{InstanceId: &instance}}
		}
		return v
	}
	is := func(id string, state types.InstanceStateName) types.Instance {
		return types.Instance{InstanceId: &id, State: &types.InstanceState{Name: state}}
	}
	o := &orphanage{account: account{
		volumes: []types.Volume{
			made("vol-forgotten", "i-forgotten", false), made("vol-terminated", "i-terminated", false), made("vol-stopped", "i-stopped", false),
			made("vol-running", "i-running", false), made("vol-attached", "i-terminated", true), {VolumeId: aws.String("vol-nameless")},
		},
		instances: []types.Instance{is("i-terminated", types.InstanceStateNameTerminated), is("i-stopped", types.InstanceStateNameStopped), is("i-running", types.InstanceStateNameRunning)},
	}}
	found, err := fleet.Orphans(t.Context(), o)
	if err != nil || len(found) != 2 || found[0].VolumeID != "vol-forgotten" || found[0].InstanceID != "i-forgotten" || found[1].VolumeID != "vol-terminated" {
		t.Errorf("%+v, %v", found, err)
	}
	for _, o.failing = range []string{"volumes", "instances"} {
		if found, err := fleet.Orphans(t.Context(), o); err == nil || found != nil {
			t.Errorf("%s cannot be listed: %+v, %v: without the whole picture nothing is an orphan", o.failing, found, err)
		}
	}
}

// Row 85: an instance lives on that left a volume behind. gc may have it, but never as long as it
// is attached.
func TestAVolumeThatWasLeftIsAnOrphanOnceItIsDetached(t *testing.T) {
	left := func(id, attachedTo string) types.Volume {
		return vol(id, attachedTo, volume.TagInstance, "i-1", volume.TagGeneration, "9", volume.TagState, volume.StateLeft)
	}
	o := &orphanage{account: account{
		volumes: []types.Volume{
			left("vol-detached", ""), left("vol-attached", "i-1"), left("vol-elsewhere", "i-2"),
			vol("vol-booting", "", volume.TagInstance, "i-1", volume.TagState, volume.StateBooting),
		},
		instances: []types.Instance{instance("i-1", "10.0.0.1", types.InstanceStateNameRunning)},
	}}
	found, err := fleet.Orphans(t.Context(), o)
	if err != nil || len(found) != 1 || found[0].VolumeID != "vol-detached" || !found[0].Left {
		t.Errorf("%+v, %v", found, err)
	}
}
