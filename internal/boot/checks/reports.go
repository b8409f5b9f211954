package checks

import (
	"context"

	"ebs-release/internal/doctor"
	"ebs-release/internal/pointer"
	"ebs-release/internal/report"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

func (c *Checks) createTags(ctx context.Context) doctor.Finding {
	f := c.onVolume("ec2:CreateTags", func(id, _ string) error { return volume.DryRuns{EC2: c.api}.Tag(ctx, id) })
	if f.State == doctor.Fail && pointer.InS3(c.settings.Pointer) {
		return doctor.Warning(f.Try, "%s (a store in S3 does not need it, but to mark a volume that a boot could not remove)", f.Says)
	}
	return f
}

// reports: whether this member may write one cannot be tried without writing it.
func (c *Checks) reports(ctx context.Context) doctor.Finding {
	if !pointer.InS3(c.settings.Pointer) {
		return doctor.Fine("tags on the volume")
	}
	if f, ready := c.ready(); !ready {
		return f
	}
	who, err := sts.NewFromConfig(*c.cfg).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return doctor.Failure("a way to STS from here: a NAT, or an interface endpoint for com.amazonaws."+c.cfg.Region+".sts", "%s", short(err))
	}
	if err := report.CallerOf(aws.ToString(who.UserId), c.me.InstanceID); err != nil {
		return doctor.Failed(err)
	}
	return doctor.Fine("to the store, as %s", aws.ToString(who.UserId))
}
