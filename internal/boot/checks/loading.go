package checks

import (
	"context"

	"ebs-release/internal/doctor"
	"ebs-release/internal/status"
	"ebs-release/internal/volume"
)

// loading asks how far EBS has loaded the volume that is served, where it does so by itself.
func (c *Checks) loading(ctx context.Context) doctor.Finding {
	s, err := c.settings.RunDir.Read()
	switch {
	case err != nil:
		return doctor.Warning("look at the directory of the status", "not known: %v", err)
	case s.State != status.Ready:
		return doctor.Fine("no volume is served")
	case !s.Brought && c.settings.Volume.Rate == 0:
		return doctor.Fine("EBS loads a block when it is read: initialization-rate is off")
	}
	if f, ready := c.ready(); !ready {
		return f
	}
	is, err := volume.Initialized(ctx, c.api, s.VolumeID)
	switch {
	case err != nil: // nothing else needs the right
		f := c.refusal("ec2:DescribeVolumeStatus", err)
		return doctor.Warning(f.Try, "%s", f.Says)
	case is.Provisioned && is.Percent < 100:
		return doctor.Fine("EBS had loaded %d %% of %s up to 5 minutes ago, %s left", is.Percent, s.VolumeID, is.Left)
	case is.Provisioned:
		return doctor.Fine("EBS has loaded all of %s", s.VolumeID)
	}
	return doctor.Fine("EBS loads a block of %s when it is read", s.VolumeID)
}
