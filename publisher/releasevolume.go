package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/catchup"
	"ebs-release/internal/exit"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/store"
)

// releaseVolume is the release volume of this server: opened once, when something first asks for
// it, as not every verb does. It is publish.Tree.
type releaseVolume struct {
	point  string
	packs  store.Reader
	full   bool     // see job
	keys   []string // that a snapshot of it has to have
	once   sync.Once
	opened *release.Volume
	err    error
}

func (r *releaseVolume) open() (*release.Volume, error) {
	r.once.Do(func() { r.opened, r.err = release.Open(r.point) })
	return r.opened, r.err
}

func (r *releaseVolume) close() error {
	if r.opened == nil {
		return nil
	}
	return r.opened.Close()
}

// with calls do with the opened volume, for what it returns.
func with[T any](r *releaseVolume, do func(*release.Volume) (T, error)) (result T, err error) {
	v, err := r.open()
	if err != nil {
		return result, err
	}
	return do(v)
}

func (r *releaseVolume) do(something func(*release.Volume) error) error {
	v, err := r.open()
	if err != nil {
		return err
	}
	return something(v)
}

func (r *releaseVolume) Current() (string, error) { return with(r, (*release.Volume).Current) }
func (r *releaseVolume) StoreID() (string, error) { return with(r, (*release.Volume).StoreID) }
func (r *releaseVolume) Releases() ([]string, error) {
	return with(r, (*release.Volume).Releases)
}
func (r *releaseVolume) Generation() (int64, error) { return with(r, (*release.Volume).Generation) }

func (r *releaseVolume) ManifestDigest(id string) (string, error) {
	return with(r, func(v *release.Volume) (string, error) { return v.ManifestDigest(id) })
}

func (r *releaseVolume) Ingest(ctx context.Context, source string, now time.Time, wanted gc.Wanted) (release.Ingested, error) {
	return with(r, func(v *release.Volume) (release.Ingested, error) {
		if r.full {
			if err := v.Forget(ctx); err != nil {
				return release.Ingested{}, err
			}
		}
		return v.Ingest(ctx, source, now, wanted)
	})
}

func (r *releaseVolume) Prune(ctx context.Context, wanted gc.Wanted) ([]string, error) {
	return with(r, func(v *release.Volume) ([]string, error) { return v.Prune(ctx, wanted) })
}

func (r *releaseVolume) Activate(ctx context.Context, id, digest string, number int64) error {
	return r.do(func(v *release.Volume) error { return v.Activate(ctx, id, digest, number) })
}

func (r *releaseVolume) Untouched(ctx context.Context, id string) error {
	return r.do(func(v *release.Volume) error { return v.Untouched(ctx, id) })
}

// CheckActive looks at the keys, too: who boots from a snapshot believes those on it.
func (r *releaseVolume) CheckActive(id string, number int64) error {
	return r.do(func(v *release.Volume) error {
		if err := v.CheckActive(id, number); err != nil {
			return err
		}
		lines, err := v.Keys()
		if err == nil && !slices.Equal(lines, r.keys) {
			err = advice.Try(fmt.Errorf("the release volume %s has keys that are not this server's: somebody wrote them since this began",
				v.Root()), "find out who can become the owner of the tree here, then the same again")
		}
		return err
	})
}

func (r *releaseVolume) LockPublish() (unlock func() error, err error) { return with(r, lockPublish) }

func (r *releaseVolume) CatchUp(ctx context.Context, to pointer.Pointer, wanted gc.Wanted) (catchup.Way, error) {
	return with(r, func(v *release.Volume) (catchup.Way, error) { return catchup.OnServer(v, r.packs, wanted).To(ctx, to) })
}

// Inventory is sweep.Volume's.
func (r *releaseVolume) Inventory() (gc.Volume, error) {
	return with(r, (*release.Volume).Inventory)
}

// Remove is sweep.Volume's.
func (r *releaseVolume) Remove(ctx context.Context, id string) error {
	return r.do(func(v *release.Volume) error { return v.Remove(ctx, id) })
}

// lockPublish keeps every other publish out of the volume until unlock.
func lockPublish(v *release.Volume) (unlock func() error, err error) {
	unlock, err = v.LockPublish()
	if errors.Is(err, release.ErrPublishing) {
		err = exit.With(exit.Conflict, advice.Errorf("%w; nothing was changed", err))
	}
	return unlock, err
}
