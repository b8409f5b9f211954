// Package activation makes a release the current one on a volume that is served, and runs the
// programs (activate.d) that follow. Whoever decides that it is time for that is the caller: a push
// or the member itself.
package activation

import (
	"context"
	"errors"
	"fmt"

	"ebs-release/internal/exit"
	"ebs-release/internal/hook"
	"ebs-release/internal/release"
)

// Target is what shall be active.
type Target struct {
	Release, Digest string
	Generation      int64
}

// Run flips, runs the programs, and leaves the mark that they have succeeded. Without an error it
// follows from the mark that they have; who asks again for the same generation, and finds no mark,
// has them run again. Where the release is current already, under an earlier generation, and they
// have succeeded for that, there is nothing that they could tell anybody. The error of a program is
// a *hook.Failure: the release is active all the same.
func Run(ctx context.Context, v *release.Volume, hooks hook.Dir, to Target) error {
	activate := v.Activate
	if current, err := v.Current(); err != nil {
		return err
	} else if current == to.Release {
		activate = v.Raise
	}
	if err := activate(ctx, to.Release, to.Digest, to.Generation); err != nil {
		return Fenced(err)
	}
	return programs(ctx, v, hooks, to.Release, to.Generation)
}

// Pending runs the programs for what is active on the volume, unless they have all succeeded for
// it. Errors are those of Run.
func Pending(ctx context.Context, v *release.Volume, hooks hook.Dir) error {
	n, id, err := v.Fence()
	if err != nil || n == 0 {
		return err
	}
	return programs(ctx, v, hooks, id, n)
}

func programs(ctx context.Context, v *release.Volume, hooks hook.Dir, id string, n int64) error {
	// From here on one after the other: those of an activation whose caller is gone may still be
	// running.
	unlock, err := v.LockPrograms(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := v.CheckActive(id, n); err != nil { // a newer one came while this one waited
		return Fenced(err)
	}
	if done, err := v.ProgramsDone(); err != nil || done {
		return err
	}
	hooks.Env = []string{
		fmt.Sprintf("EBS_RELEASE_GENERATION=%d", n), "EBS_RELEASE_ID=" + id,
		"EBS_RELEASE_PATH=" + v.Root() + "/current", "EBS_RELEASE_PREVIOUS=" + v.Previous(),
	}
	if err := hooks.Run(ctx); err != nil {
		return fmt.Errorf("run %s: %w", hooks.Path, err)
	}
	return Fenced(v.MarkDone(ctx, id, n))
}

// Fenced gives the error of a fence its exit code.
func Fenced(err error) error {
	if errors.Is(err, release.ErrFenced) || errors.Is(err, release.ErrOldPointer) {
		return exit.With(exit.Conflict, err)
	}
	return err
}
