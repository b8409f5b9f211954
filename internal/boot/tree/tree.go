// Package tree is a release volume as package boot wants to know it: what it holds, whether that is
// what is wanted, and how it gets there. Its errors say which of boot's kinds they are.
package tree

import (
	"context"
	"errors"
	"fmt"

	"ebs-release/internal/advice"
	"ebs-release/internal/boot"
	"ebs-release/internal/catchup"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
)

// Volume is an opened release volume.
type Volume struct {
	*release.Volume

	Trusted []string // the setting trusted-keys
}

// Open opens the volume whose files are below root.
func Open(root string, trusted []string) (Volume, error) {
	v, err := release.Open(root)
	return Volume{v, trusted}, err
}

// Check also raises the fence on the volume to the wanted generation. It is below that when the
// pointer names an older snapshot in a newer generation (a rollback), and a late activation of
// something in between must be refused here as everywhere. A volume that is right already needs no
// lock: a push may hold it.
func (v Volume) Check(ctx context.Context, want boot.Wanted) error {
	if err := v.Look(want); err != nil {
		return err
	}
	if want.Generation == 0 { // a plain line: nothing to compare with
		return nil
	}
	if have, err := v.Generation(); err != nil || have == want.Generation {
		return err
	}
	err := v.Raise(ctx, want.Release, want.Digest, want.Generation)
	if errors.Is(err, release.ErrNotCurrent) || errors.Is(err, release.ErrFenced) {
		return v.Check(ctx, want) // a push was faster
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = advice.Try(err, "wait for the push to this member, then ebs-release-agent up")
	}
	return err
}

// Look is Check without a change: the volume has what is wanted, by a pointer that it believes.
func (v Volume) Look(want boot.Wanted) error {
	_, err := v.believe(want)
	if err == nil && want.Generation > 0 {
		err = v.Volume.Check(want.Release, want.Digest, want.Generation)
	}
	switch {
	case errors.Is(err, pointer.ErrUnsigned):
		return Means(err, boot.ErrUnsigned)
	case errors.Is(err, release.ErrMismatch):
		return Means(err, boot.ErrMismatch)
	case errors.Is(err, release.ErrOldPointer):
		return Means(err, boot.ErrOlder)
	}
	return err
}

// Holding is what the volume says that it holds. One of an older setup is no tree of ours, and says
// nothing.
func (v Volume) Holding() (generation int64, release string, done bool) {
	generation, err := v.Generation()
	if err != nil {
		generation = 0
	}
	release, err = v.Current()
	if err != nil {
		release = ""
	}
	done, err = v.ProgramsDone()
	return generation, release, err == nil && done || generation == 0
}

// believe reads the pointer for the volume and its instance. Who signed it comes first: what a
// pointer that nobody trusts says of its store is no reason to let a volume of another one go.
func (v Volume) believe(want boot.Wanted) (pointer.Pointer, error) {
	p, err := catchup.Believe(v.Volume, []byte(want.Document), v.Trusted)
	store := v.CheckStore(want.Store)
	if err != nil && store != nil {
		why, _ := advice.Of(store) // who signed it counts, and what is to be done about that
		return p, fmt.Errorf("%w; and %s", err, why)
	}
	if err == nil {
		err = store
	}
	return p.For(InstanceOf(want.Who)), err
}

// InstanceOf is an instance as a pointer knows it.
func InstanceOf(me boot.Identity) pointer.Instance {
	return pointer.Instance{ID: me.InstanceID, Zone: me.Zone}
}
