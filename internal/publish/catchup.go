package publish

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"ebs-release/internal/catchup"
	"ebs-release/internal/words"
)

// catchUpHere is P0's, before anything is built on the release volume: what the pointer names is
// there, and current. It is not after a publish that was killed between its commit and its
// activation here, after one by another release server, and on a volume that was made from an older
// snapshot.
//
// Where no packs lead to it, that is the end; but not on a volume whose fence is above the pointer (a
// publish failed here, or the pointer is an older copy), nor on one where nothing was ever
// published: nothing that it has is taken for the pointer's, and the next generation is above both.
func (r *run) catchUpHere(ctx context.Context) error {
	is := r.before
	if is.Generation == 0 {
		return nil
	}
	fence, err := r.Tree.Generation()
	if err != nil {
		return fmt.Errorf("read the generation of the release volume: %w", err)
	}
	current, err := r.Tree.Current()
	if err != nil {
		return fmt.Errorf("read which release is current on the release volume: %w", err)
	}
	has := r.hasHere(is.Release, is.Digest)
	switch {
	case has && current == is.Release && fence >= is.Generation:
		return nil
	case r.looks:
		r.say(Event{Kind: KindNote, Text: fmt.Sprintf("the release volume is at generation %d, release %s, and the pointer at %d, %s: "+
			"a publish brings the volume there first", fence, current, is.Generation, is.Release)})
		return nil
	}
	if !has {
		way, err := r.Tree.CatchUp(ctx, is, r.wanted())
		own := (fence == 0 || fence > is.Generation) && !r.converges
		if own && (errors.Is(err, catchup.ErrNoWay) || errors.Is(err, catchup.ErrGone)) {
			r.say(Event{Kind: KindWarning, Text: fmt.Sprintf("the release volume is at generation %d, and the pointer at %d, whose release %s "+
				"cannot be had (%v): it goes on above both, without it", fence, is.Generation, is.Release, err)})
			return nil
		}
		if err != nil {
			return fmt.Errorf("the release volume does not have release %s of generation %d, and could not catch up: %w",
				is.Release, is.Generation, noWayHere(err))
		}
		r.say(Event{Kind: KindNote, Text: fmt.Sprintf("the release volume caught up from release %s to %s: %s, %s",
			way.From, is.Release, words.Count(way.Packs, "pack"), words.Bytes(way.Bytes))})
	}
	number := is.Generation
	if fence >= number && current != is.Release {
		number = fence + 1 // the fence only grows: as after a publish that failed
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
	if none && !strings.Contains(err.Error(), ". Try: ") {
		err = fmt.Errorf("%w. Try: unmount the release volume, take its line out of /etc/fstab, delete it, and make another: "+
			"ebs-release init --join", err)
	}
	return err
}
