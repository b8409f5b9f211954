package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"syscall"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/boot"
	"ebs-release/internal/catchup"
	"ebs-release/internal/config"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/words"
)

// source is where the pointer and its packs are, and whose word counts.
type source struct {
	Pointer string   `json:"pointer,omitempty"` // the setting
	Trusted []string `json:"trusted,omitempty"` // the setting trusted-keys
}

func sourceOf(values config.Values) source {
	return source{values.Get("pointer"), values.List("trusted-keys")}
}

// catchUp brings the prepared volume to what is wanted. First it ends what was cut off, whatever is
// wanted: it needs no network. A volume that never was one of ours has nothing to end.
func (w *diskWork) catchUp(ctx context.Context, want boot.Wanted, from source) error {
	v, err := release.Open(w.prepared.Root())
	if err != nil {
		return err
	}
	defer func() { _ = v.Close() }()
	ended, err := w.endCatchUp(ctx, v)
	if err != nil {
		return whatItMeans(err)
	}
	p, err := believe(v, want, from.Trusted)
	switch {
	case err != nil:
	case want.Document != "":
		err = w.follow(ctx, v, p, from)
	case ended != "" && ended == want.Release: // it names one snapshot, and no packs
		err = v.Activate(ctx, want.Release, want.Digest, want.Generation)
	}
	return whatItMeans(err)
}

// inReachTries is how often a pack is asked for, before what is served stays as it is.
const inReachTries = 3

// inReach says whether the store has the packs from what the volume holds to what is wanted.
func inReach(ctx context.Context, v *release.Volume, want boot.Wanted, from source, log *slog.Logger) error {
	p, err := believe(v, want, from.Trusted)
	if err != nil {
		return whatItMeans(err)
	}
	fetcher, err := newFetcher(from.Pointer, log)
	if err != nil {
		return err
	}
	to := catchup.Volume{Volume: v, Packs: fetcher.Store, Tries: inReachTries}
	return whatItMeans(to.InReach(ctx, p))
}

// believe reads the pointer for a volume and its instance. Who signed it comes first: what a
// pointer that nobody trusts says of its store is no reason to let a volume of another one go.
func believe(v *release.Volume, want boot.Wanted, trusted []string) (pointer.Pointer, error) {
	p, err := catchup.Believe(v, []byte(want.Document), trusted)
	store := v.CheckStore(want.Store)
	if err != nil && store != nil {
		return p, advice.Errorf("%w; and %s", err, words.OneLine(store))
	}
	if err == nil {
		err = store
	}
	return p.For(instanceOf(want.Who)), err
}

// endCatchUp returns the release that came out; "": nothing was cut off.
func (w *diskWork) endCatchUp(ctx context.Context, v *release.Volume) (id string, err error) {
	halfway, err := v.Halfway()
	if err != nil || !halfway {
		return "", err
	}
	if id, err = catchup.Finish(ctx, v); err == nil {
		w.log.Info("ended a catch-up that was cut off: the volume now has release " + id)
	}
	return id, err
}

// follow makes the pointer's release current.
func (w *diskWork) follow(ctx context.Context, v *release.Volume, p pointer.Pointer, from source) error {
	fetcher, err := newFetcher(from.Pointer, w.log)
	if err != nil {
		return err
	}
	began := time.Now()
	to := catchup.Volume{Volume: v, Packs: fetcher.Store, Served: w.shared, Wanted: gc.Wanted{Keep: 1}}
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
		w.log.Info(fmt.Sprintf("caught up %s, in %s", way.Says(p.Release), time.Since(began).Round(time.Millisecond)))
	}
	return catchup.SetKeys(ctx, v, p.Keys, "")
}

// whatItMeans is an error of a catch-up in the words of package boot.
func whatItMeans(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pointer.ErrUnsigned):
		return meaning{err, boot.ErrUnsigned}
	case errors.Is(err, release.ErrOldPointer), errors.Is(err, release.ErrFenced):
		return meaning{err, boot.ErrOlder}
	case errors.Is(err, catchup.ErrNoWay), errors.Is(err, catchup.ErrUnfit), errors.Is(err, release.ErrMismatch):
		return meaning{advice.Try(err, "publish again"), boot.ErrMismatch}
	case errors.Is(err, catchup.ErrGone):
		return meaning{advice.Try(err, "publish again"), boot.ErrGone}
	case errors.Is(err, catchup.ErrStore):
		return meaning{err, boot.ErrStore}
	}
	errno, ok := errors.AsType[syscall.Errno](err)
	if ok && slices.Contains([]syscall.Errno{syscall.EIO, syscall.EUCLEAN, syscall.EROFS, syscall.ENODEV, syscall.ESHUTDOWN}, errno) {
		return meaning{err, boot.ErrDisk}
	}
	return err // nobody knows whose fault it is
}
