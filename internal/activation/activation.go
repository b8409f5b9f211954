// Package activation makes a release the current one on a volume that is served, and runs the
// operator's programs around that (Programs). Whoever decides that it is time for that is the
// caller: a push (package receive) or the member itself (package follow). The rename is package
// release's (ActivateFrom).
//
// One rule keeps an application in service: before the first program of drain.d runs, the mark on
// the volume says so, and it says so until all programs of activate.d and ready.d have succeeded
// for what is current, be that the new release or, where the flip did not come, the one before.
// Whoever finds the volume without its mark runs them.
package activation

import (
	"context"
	"errors"
	"fmt"

	"ebs-release/internal/exit"
	"ebs-release/internal/release"
)

// Target is what shall be active.
type Target struct {
	Release, Digest string
	Generation      int64
}

// Run drains, flips, runs the programs, and leaves the mark that they have succeeded. Without an
// error it follows from the mark that they have; who asks again for the same generation, and finds
// no mark, has them run again. Where the release is current already, under an earlier generation,
// and they have succeeded for that, there is nothing that they could tell anybody. The error of a
// program is a *hook.Failure: the release is active all the same. It is ErrRefused where a program
// of drain.d failed: then the release is not active, and what was current is in service again, or
// the error says why not.
func Run(ctx context.Context, v *release.Volume, p Programs, to Target) error {
	for {
		err := p.run(ctx, v, to)
		// Another verb has flipped since: no release goes out of service without its drain.d.
		if !errors.Is(err, release.ErrNotCurrent) || ctx.Err() != nil {
			return err
		}
	}
}

func (p Programs) run(ctx context.Context, v *release.Volume, to Target) error {
	if from, err := p.from(v, to); err != nil {
		return err
	} else if !from.Drained {
		if err := flip(ctx, v, from, to); err != nil {
			return err
		}
		return locked(ctx, v, func() error { return p.complete(ctx, v, to.Release, to.Generation) })
	}
	// The programs of an earlier activation may not put into service what these take out.
	return locked(ctx, v, func() error {
		if err := v.MayActivate(to.Release, to.Digest, to.Generation); err != nil {
			return Fenced(err)
		}
		from, err := p.drain(ctx, v, to)
		if err == nil {
			err = flip(ctx, v, from, to)
		}
		if err == nil {
			return p.complete(ctx, v, to.Release, to.Generation)
		}
		// Also when the publisher or systemd has no more patience: nobody else would.
		if back := p.resume(context.WithoutCancel(ctx), v); back != nil {
			// Not wrapped: the error of a program would say that the new release is active.
			err = fmt.Errorf("%w; and the one before was not put into service again: %s", err, back.Error())
		}
		return err
	})
}

func flip(ctx context.Context, v *release.Volume, from release.From, to Target) error {
	if from.Release == to.Release {
		return Fenced(v.Raise(ctx, to.Release, to.Digest, to.Generation))
	}
	return Fenced(v.ActivateFrom(ctx, from, to.Release, to.Digest, to.Generation))
}

// Drain is the first part of Run, for who flips by itself: with an error, too, it has to see to it
// that Pending runs.
func Drain(ctx context.Context, v *release.Volume, p Programs, to Target) error {
	return locked(ctx, v, func() error {
		if err := v.MayActivate(to.Release, to.Digest, to.Generation); err != nil {
			return Fenced(err)
		}
		_, err := p.drain(ctx, v, to)
		return err
	})
}

// Pending runs the programs for what is current on the volume, unless they have all succeeded for
// it. Errors are those of Run.
func Pending(ctx context.Context, v *release.Volume, p Programs) error {
	return locked(ctx, v, func() error { return p.resume(ctx, v) })
}

// locked does something while no other process runs programs here: those of an activation whose
// caller is gone may still be running.
func locked(ctx context.Context, v *release.Volume, do func() error) error {
	unlock, err := v.LockPrograms(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return do()
}

// complete is what follows a flip.
func (p Programs) complete(ctx context.Context, v *release.Volume, id string, n int64) error {
	if err := v.CheckActive(id, n); err != nil { // a newer one came while this one waited
		return Fenced(err)
	}
	if done, err := v.ProgramsDone(); err != nil || done {
		return err
	}
	if err := p.serve(ctx, v, id, n); err != nil {
		return err
	}
	return Fenced(v.MarkDone(ctx, id, n))
}

// resume is complete for whatever is current. Where the power went, or the disk was full, between
// the fence and the flip, that is another release than the fence has: it serves, and gets no mark.
func (p Programs) resume(ctx context.Context, v *release.Volume) error {
	n, id, err := v.Fence()
	if err != nil || n == 0 {
		return err
	}
	current, err := v.Current()
	switch {
	case err != nil:
		return err
	case current == id || current == "":
		return p.complete(ctx, v, id, n)
	}
	return errors.Join(p.serve(ctx, v, current, n), v.CheckActive(id, n))
}

// Fenced gives the error of a fence its exit code.
func Fenced(err error) error {
	if errors.Is(err, release.ErrFenced) || errors.Is(err, release.ErrOldPointer) {
		return exit.With(exit.Conflict, err)
	}
	return err
}
