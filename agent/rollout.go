package main

import (
	"context"
	"time"

	"ebs-release/internal/boot"
	"ebs-release/internal/boot/disks"
	"ebs-release/internal/boot/source"
	"ebs-release/internal/config"
	"ebs-release/internal/instance"
	"ebs-release/internal/pointer"
	"ebs-release/internal/status"
)

// who is this instance, to a rollout.
func (p *program) who(ctx context.Context) (pointer.Instance, error) {
	_, me, err := instance.Load(ctx, p.logger())
	return pointer.Instance{ID: me.InstanceID, Zone: me.AvailabilityZone}, err
}

// whoLimit is for the metadata service, which answers within milliseconds when all is well.
const whoLimit = 10 * time.Second

// whoSoon is who, for somebody who waits.
func (p *program) whoSoon(ctx context.Context) (pointer.Instance, error) {
	ctx, cancel := context.WithTimeout(ctx, whoLimit)
	defer cancel()
	return p.who(ctx)
}

// sideLimit is for all that `status` asks the network for: it is for people, and does without.
const sideLimit = 3 * time.Second

// side is on which side of a rollout this member is, by a pointer that its volume believes; a zero
// one: there is no rollout, or nobody can tell now.
func (p *program) side(ctx context.Context, s status.Status) status.Rollout {
	ctx, cancel := context.WithTimeout(ctx, sideLimit)
	defer cancel()
	side, err := p.askSide(ctx, s)
	if err != nil {
		p.logger().Debug("cannot tell whether there is a rollout", "error", err)
	}
	return side
}

func (p *program) askSide(ctx context.Context, s status.Status) (status.Rollout, error) {
	place, err := p.reached()
	if err != nil {
		return status.Rollout{}, err
	}
	fetcher, err := source.NewFetcher(place, p.logger())
	if err != nil {
		return status.Rollout{}, err
	}
	got, _, err := fetcher.Look(ctx, "")
	if err != nil || got.Rollout == nil {
		return status.Rollout{}, err
	}
	me, err := p.who(ctx)
	if err != nil {
		return status.Rollout{}, err
	}
	var trusted config.Values
	if trusted, err = p.settings(); err != nil {
		return status.Rollout{}, err
	}
	return disks.Side(ctx, p.logger(), s.MountPoint, trusted.List("trusted-keys"), boot.Wanted{
		Document: string(got.Document), Who: boot.Identity{InstanceID: me.ID, Zone: me.Zone},
	})
}
