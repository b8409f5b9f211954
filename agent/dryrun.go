package main

import (
	"context"

	"ebs-release/internal/config"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// noVolume is the id of a volume that does not exist: of one that the boot would make.
const noVolume = "vol-00000000000000000"

// dryRuns are the requests of a boot, with which EC2 does nothing but say whether it would. The
// answer is always an error: volume.IsDryRun of it means yes.
type dryRuns struct{ api *ec2.Client }

func (d dryRuns) create(ctx context.Context, r volume.Request) error {
	in := volume.CreateInput(r, 0)
	in.DryRun = aws.Bool(true)
	_, err := d.api.CreateVolume(ctx, in)
	return err
}

func (d dryRuns) attach(ctx context.Context, volumeID, instanceID, name string) error {
	in := volume.AttachInput(volumeID, instanceID, name)
	in.DryRun = aws.Bool(true)
	_, err := d.api.AttachVolume(ctx, in)
	return err
}

func (d dryRuns) protect(ctx context.Context, volumeID, instanceID, name string) error {
	in := volume.ProtectInput(volumeID, instanceID, name)
	in.DryRun = aws.Bool(true)
	_, err := d.api.ModifyInstanceAttribute(ctx, in)
	return err
}

func (d dryRuns) tag(ctx context.Context, volumeID string) error {
	in := volume.TagInput(volumeID, map[string]string{volume.TagState: volume.StateReady})
	in.DryRun = aws.Bool(true)
	_, err := d.api.CreateTags(ctx, in)
	return err
}

func (d dryRuns) detach(ctx context.Context, volumeID, instanceID string) error {
	_, err := d.api.DetachVolume(ctx, &ec2.DetachVolumeInput{DryRun: aws.Bool(true), VolumeId: &volumeID, InstanceId: &instanceID})
	return err
}

func (d dryRuns) remove(ctx context.Context, volumeID string) error {
	_, err := d.api.DeleteVolume(ctx, &ec2.DeleteVolumeInput{DryRun: aws.Bool(true), VolumeId: &volumeID})
	return err
}

// releaseVolumeOf is whom the release volume of an instance is for.
func releaseVolumeOf(instanceID, instanceType, zone string, values config.Values) volume.Owner {
	return volume.Owner{Role: volume.RoleMember, InstanceID: instanceID,
		InstanceType: instanceType, Zone: zone, MountPoint: values.Get("mount-point")}
}
