package main

import (
	"context"
	"time"

	"ebs-release/internal/instance"
	"ebs-release/internal/status"
	"ebs-release/internal/volume"
)

// loader is warm.EBS.
type loader struct {
	*warmer
	ec2 volume.Statuses // nil: it was not asked yet
}

// VolumeID: a volume that EC2 brought may have a rate of its launch template.
func (l *loader) VolumeID() string {
	at := l.Serves()
	if s, err := l.runDir.Read(); err != nil || !s.Brought && l.values.Int("initialization-rate") == 0 {
		return ""
	}
	return at.VolumeID
}

// askLimit is for one question; a later one asks again.
const askLimit = time.Minute

func (l *loader) Loading(ctx context.Context, id string) (*status.Loading, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	if l.ec2 == nil {
		cfg, _, err := instance.Load(ctx, l.log)
		if err != nil {
			return nil, err
		}
		l.ec2 = volume.NewEC2(cfg)
	}
	is, err := volume.Initialized(ctx, l.ec2, id)
	if err != nil || !is.Provisioned {
		return nil, err
	}
	return &status.Loading{VolumeID: id, Percent: is.Percent, Seconds: int64(is.Left.Seconds()), Asked: time.Now().UTC()}, nil
}

func (l *loader) Keep(now status.Loading) error { return l.runDir.WriteLoading(now) }
