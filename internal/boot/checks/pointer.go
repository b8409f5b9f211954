package checks

import (
	"context"
	"fmt"
	"strings"

	"ebs-release/internal/doctor"
	"ebs-release/internal/pointer"
)

func (c *Checks) readPointer(ctx context.Context) doctor.Finding {
	fetcher, err := pointer.NewFetcher(c.settings.Pointer, c.awsConfig, c.log)
	if err != nil {
		return doctor.Warning("see the configuration", "not read: there is no URL")
	}
	p, err := fetcher.Fetch(ctx)
	if err != nil {
		if pointer.IsMissing(err) {
			return doctor.Warning("publish a release (ebs-release publish), or correct the URL",
				"%s: 404 Not Found: nothing is published there yet, or the URL is wrong", fetcher.Place())
		}
		look := "curl -v "
		if pointer.InS3(fetcher.Place()) {
			look = "aws s3 ls "
		}
		return doctor.Failure(look+fetcher.Place(), "%s", short(err))
	}
	c.pointer = &p
	if p.Generation < c.settings.Least {
		return doctor.Failure("look for a cache or a restored release.json behind the pointer's URL; if it is right, lower min-generation",
			"it says generation %d, and min-generation is %d", p.Generation, c.settings.Least)
	}
	if c.cfg == nil {
		return doctor.Fine("%s", c.target())
	}
	if c.snapshot, err = p.Snapshot(c.cfg.Region); err != nil {
		return doctor.Failure("publish to this Region, too", "%s", short(err))
	}
	if p.Legacy() {
		return doctor.Fine("a plain line: %s, with nothing to verify against", c.snapshot)
	}
	return doctor.Fine("%s, %s", c.target(), c.snapshot)
}

// target is what the pointer gives this instance, and on which side of a rollout that is.
func (c *Checks) target() string {
	p := c.pointer
	switch {
	case p.Rollout == nil:
		return fmt.Sprintf("generation %d, release %s", p.Generation, p.Release)
	case c.me == nil:
		return fmt.Sprintf("generation %d, release %s; a rollout of generation %d, and nobody knows whether this instance has it",
			p.Generation, p.Release, p.Rollout.Generation)
	}
	me := pointer.Instance{ID: c.me.InstanceID, Zone: c.me.AvailabilityZone}
	side := "without"
	if p.Rollout.Includes(me) {
		side = "with"
	}
	to := p.For(me)
	return fmt.Sprintf("generation %d, release %s, %s the rollout of generation %d", to.Generation, to.Release, side, p.Rollout.Generation)
}

// signature does not look at the volume's own keys: its disk may not answer.
func (c *Checks) signature(context.Context) doctor.Finding {
	switch p := c.pointer; {
	case p == nil:
		return doctor.Warning("see the pointer", "not known")
	case p.CheckTrusted(c.settings.Trusted) != nil:
		return doctor.Failure("find out who wrote the pointer, and with which key; if it is right, add its key to trusted-keys",
			"%s", short(p.CheckTrusted(c.settings.Trusted)))
	case len(p.NotTrusted(c.settings.Trusted)) > 0:
		return doctor.Warning("add to trusted-keys: "+strings.Join(p.NotTrusted(c.settings.Trusted), ", "),
			"the pointer names keys that trusted-keys does not: the store's key is being rotated, and this member will not know the new one")
	case len(c.settings.Trusted) > 0:
		return doctor.Fine("the pointer is signed by one of trusted-keys")
	case p.Schema == pointer.Signed:
		return doctor.Fine("the pointer is signed; the keys on the volume say whether that counts")
	}
	return doctor.Fine("the pointer is not signed, and no trusted-keys are set: it is believed for one snapshot, and no packs")
}
