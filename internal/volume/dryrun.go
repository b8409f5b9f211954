package volume

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// None is the id of a volume that does not exist: of one that a boot would make.
const None = "vol-00000000000000000"

// DryRuns are the requests of a boot, with which EC2 does nothing but say whether it would. The
// answer is always an error: IsDryRun of it means yes.
type DryRuns struct{ EC2 EC2 }

// Create asks for Create.
func (d DryRuns) Create(ctx context.Context, r Request) error {
	in := createInput(r, 0)
	in.DryRun = aws.Bool(true)
	_, err := d.EC2.CreateVolume(ctx, in)
	return err
}

// Attach asks for Attach.
func (d DryRuns) Attach(ctx context.Context, volumeID, instanceID, name string) error {
	in := attachInput(volumeID, instanceID, name)
	in.DryRun = aws.Bool(true)
	_, err := d.EC2.AttachVolume(ctx, in)
	return err
}

// Protect asks for Protect.
func (d DryRuns) Protect(ctx context.Context, volumeID, instanceID, name string) error {
	in := protectInput(volumeID, instanceID, name)
	in.DryRun = aws.Bool(true)
	_, err := d.EC2.ModifyInstanceAttribute(ctx, in)
	return err
}

// Tag asks for the Tag of a report.
func (d DryRuns) Tag(ctx context.Context, volumeID string) error {
	in := TagInput(volumeID, map[string]string{TagState: StateReady})
	in.DryRun = aws.Bool(true)
	_, err := d.EC2.CreateTags(ctx, in)
	return err
}

// Detach asks for the first half of Remove.
func (d DryRuns) Detach(ctx context.Context, volumeID, instanceID string) error {
	_, err := d.EC2.DetachVolume(ctx, &ec2.DetachVolumeInput{DryRun: aws.Bool(true), VolumeId: &volumeID, InstanceId: &instanceID})
	return err
}

// Delete asks for the second half of Remove.
func (d DryRuns) Delete(ctx context.Context, volumeID string) error {
	_, err := d.EC2.DeleteVolume(ctx, &ec2.DeleteVolumeInput{DryRun: aws.Bool(true), VolumeId: &volumeID})
	return err
}
