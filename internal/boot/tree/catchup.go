package tree

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"ebs-release/internal/boot"
	"ebs-release/internal/catchup"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/store"
)

// Packs opens the store where the packs lie, when one is needed.
type Packs func(context.Context) (store.Reader, error)

// CatchUp brings the volume to what is wanted. First it ends what was cut off, whatever is wanted:
// it needs no network. A volume that never was one of ours has nothing to end. shared: somebody
// else has the disk, and what is there stays whole.
func (v Volume) CatchUp(ctx context.Context, want boot.Wanted, packs Packs, shared bool, log *slog.Logger) error {
	ended, err := v.finish(ctx, log)
	if err != nil {
		return whatItMeans(err)
	}
	p, err := v.believe(want)
	switch {
	case err != nil:
	case want.Document != "":
		err = v.follow(ctx, p, packs, shared, log)
	case ended != "" && ended == want.Release: // it names one snapshot, and no packs
		err = v.Activate(ctx, want.Release, want.Digest, want.Generation)
	}
	return whatItMeans(err)
}

// inReachTries is how often a pack is asked for, before what is served stays as it is.
const inReachTries = 3

// InReach says whether the store has the packs from what the volume holds to what is wanted.
func (v Volume) InReach(ctx context.Context, want boot.Wanted, packs Packs) error {
	p, err := v.believe(want)
	if err == nil {
		to := catchup.Volume{Volume: v.Volume, Packs: packs, Tries: inReachTries}
		err = to.InReach(ctx, p)
	}
	return whatItMeans(err)
}

// finish returns the release that came out; "": nothing was cut off.
func (v Volume) finish(ctx context.Context, log *slog.Logger) (id string, err error) {
	halfway, err := v.Halfway()
	if err != nil || !halfway {
		return "", err
	}
	if id, err = catchup.Finish(ctx, v.Volume); err == nil {
		log.Info("ended a catch-up that was cut off: the volume now has release " + id)
	}
	return id, err
}

// follow makes the pointer's release current.
func (v Volume) follow(ctx context.Context, p pointer.Pointer, packs Packs, shared bool, log *slog.Logger) error {
	began := time.Now()
	to := catchup.Volume{Volume: v.Volume, Packs: packs, Served: shared, Wanted: gc.Wanted{Keep: 1}}
	way, err := to.To(ctx, p)
	if err != nil {
		return err
	}
	// Where it is current, verify raises the fence.
	if current, err := v.Current(); err != nil || current != p.Release {
		if err := v.Activate(ctx, p.Release, p.Digest, p.Generation); err != nil {
			return err
		}
	}
	if way.Packs > 0 {
		log.Info(fmt.Sprintf("caught up %s, in %s", way.Says(p.Release), time.Since(began).Round(time.Millisecond)))
	}
	return catchup.SetKeys(ctx, v.Volume, p.Keys, "")
}
