package publish

import (
	"context"
	"errors"
	"fmt"

	"ebs-release/internal/advice"
	"ebs-release/internal/catchup"
	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
)

// catchUpHere is P0's, before anything is built on the release volume: what the pointer names is
// there, and current. It is not after a publish that was killed between its commit and its
// activation here, after one by another release server, and on a volume that was made from an older
// snapshot.
//
// Where no packs lead to it, that is the end; but not on a volume whose fence is above the pointer
// (a publish failed here, or the pointer is an older copy), nor on one where nothing was ever
// published: nothing that it has is taken for the pointer's, and the next generation is above both.
//
// What it changes, it changes while no other publish works on this volume: the lock of a store in
// S3 holds nobody up, and a snapshot that such a publish is about to make has to hold its own
// release.
func (r *run) catchUpHere(ctx context.Context) error {
	is := r.before
	if is.Generation == 0 {
		return nil
	}
	here, err := r.lookHere()
	switch {
	case err != nil || here.is(r.before):
		return err
	case r.looks:
		r.say(Event{Kind: KindNote, Text: fmt.Sprintf("the release volume is at generation %d, release %s, and the pointer at %d, %s: "+
			"a publish brings the volume there first", here.fence, here.current, is.Generation, is.Release)})
		return nil
	}
	unlock, err := r.Tree.LockPublish()
	if err != nil {
		return err
	}
	return errors.Join(r.catchUpLocked(ctx), unlock())
}

// here is where the release volume stands.
type here struct {
	fence   int64
	current string
	has     bool // the pointer's release
}

func (h here) is(p pointer.Pointer) bool {
	return h.has && catchup.Number(p, h.fence, h.current) == 0
}

func (r *run) lookHere() (h here, err error) {
	if h.fence, err = r.Tree.Generation(); err != nil {
		return h, fmt.Errorf("read the generation of the release volume: %w", err)
	}
	if h.current, err = r.Tree.Current(); err != nil {
		return h, fmt.Errorf("read which release is current on the release volume: %w", err)
	}
	h.has = r.hasHere(r.before.Release, r.before.Digest)
	return h, nil
}

// catchUpLocked looks again: what was read may be from before a publish that has just ended here.
func (r *run) catchUpLocked(ctx context.Context) error {
	is, err := r.Store.Read(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("read the pointer: %w", err)
	case is.Generation != r.before.Generation || is.Release != r.before.Release:
		return exit.With(exit.Conflict, advice.Try(fmt.Errorf("generation %d was published meanwhile by %s; nothing was changed",
			is.Generation, is.By),
			"run it again"))
	}
	here, err := r.lookHere()
	if err != nil || here.is(is) {
		return err
	}
	if !here.has {
		way, err := r.Tree.CatchUp(ctx, is, r.wanted())
		own := (here.fence == 0 || here.fence > is.Generation) && !r.converges
		if own && (errors.Is(err, catchup.ErrNoWay) || errors.Is(err, catchup.ErrGone)) {
			why, _ := advice.Of(err)
			r.say(Event{Kind: KindWarning, Text: fmt.Sprintf("the release volume is at generation %d, and the pointer at %d, whose release %s "+
				"cannot be had (%s): it goes on above both, without it", here.fence, is.Generation, is.Release, why)})
			return nil
		}
		if err != nil {
			return fmt.Errorf("the release volume does not have release %s of generation %d, and could not catch up: %w",
				is.Release, is.Generation, noWayHere(err))
		}
		r.say(Event{Kind: KindNote, Text: "the release volume caught up " + way.Says(is.Release)})
	}
	number := catchup.Number(is, here.fence, here.current)
	if number == 0 { // it had lost the tree
		return nil
	}
	if err := r.Tree.Activate(ctx, is.Release, is.Digest, number); err != nil {
		return fmt.Errorf("make release %s of the pointer current on the release volume: %w", is.Release, err)
	}
	r.say(Event{Kind: KindNote, Text: fmt.Sprintf("release %s of generation %d is current on the release volume", is.Release, is.Generation)})
	return nil
}

// noWayHere says what to do where the store has no packs for this volume. From the snapshot that
// the pointer names there is always a way.
func noWayHere(err error) error {
	none := errors.Is(err, catchup.ErrNoWay) || errors.Is(err, catchup.ErrGone) || errors.Is(err, catchup.ErrUnfit)
	if none {
		err = advice.Try(err, "unmount the release volume, take its line out of /etc/fstab, delete it, and make another: "+
			"ebs-release init --join")
	}
	return err
}
