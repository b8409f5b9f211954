package checks

import (
	"context"
	"slices"

	"ebs-release/internal/doctor"
	"ebs-release/internal/pointer"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// broughtVolume looks at what a boot does not ask about a volume that EC2 attached with the launch:
// whether it goes with the instance. Nobody else removes it, as it has no tags of ours.
func (c *Checks) broughtVolume(ctx context.Context) doctor.Finding {
	s, err := c.settings.RunDir.Read()
	if err != nil {
		return doctor.Warning("look at the directory of the status", "not known: %v", err)
	}
	if !s.Brought {
		return doctor.Fine("none is served")
	}
	if f, ready := c.ready(); !ready {
		return f
	}
	if !pointer.InS3(c.settings.Pointer) {
		if f := c.dryRun("ec2:CreateTags", volume.DryRuns{EC2: c.api}.Tag(ctx, c.me.InstanceID), true); f.State != doctor.OK {
			f.Says = s.VolumeID + " came with this instance, which reports by its own tags: " + f.Says
			return f
		}
	}
	out, err := c.api.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{s.VolumeID}})
	if err != nil {
		return c.refusal("ec2:DescribeVolumes", err)
	}
	stays := slices.ContainsFunc(out.Volumes, func(v types.Volume) bool {
		return slices.ContainsFunc(v.Attachments, func(a types.VolumeAttachment) bool {
			return aws.ToString(a.InstanceId) == c.me.InstanceID && !aws.ToBool(a.DeleteOnTermination)
		})
	})
	if stays {
		return doctor.Warning("DeleteOnTermination true in the block device mapping of the launch template",
			"%s came with this instance and stays when that goes: DeleteOnTermination is off, and nobody removes it", s.VolumeID)
	}
	return doctor.Fine("%s came with this instance, and goes with it", s.VolumeID)
}
