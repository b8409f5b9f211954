package activation

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"ebs-release/internal/hook"
	"ebs-release/internal/release"

	smithytime "github.com/aws/smithy-go/time"
)

// The directories with the operator's programs on a member.
const (
	StageFolder    = "stage.d"    // a release is there whole, and not current: an error, and it is not taken
	DrainFolder    = "drain.d"    // another release is about to become current: an error, and it does not
	ActivateFolder = "activate.d" // it is current
	ReadyFolder    = "ready.d"    // asked again and again, until all say that it serves
)

// Folders are all of them, in the order in which they run.
func Folders() []string { return []string{StageFolder, DrainFolder, ActivateFolder, ReadyFolder} }

// readyPause is between two rounds of ready.d.
const readyPause = time.Second

// ErrRefused is that a program of stage.d or drain.d failed, and the release did not become
// current.
var ErrRefused = errors.New("a program refuses the release")

// refused does not unwrap: the error of a program says of a release that it is active.
type refused struct{ error }

func (refused) Is(target error) bool { return target == ErrRefused }

// Programs are the operator's programs on a member.
type Programs struct {
	Folder  string        // holds the directories
	Timeout time.Duration // for each program
	Ready   time.Duration // until all of ready.d have succeeded
	Inherit []string      // as in hook.Dir
	As      *hook.User    // as in hook.Dir
}

func (p Programs) dir(name string, env ...string) hook.Dir {
	return hook.Dir{Path: filepath.Join(p.Folder, name), Timeout: p.Timeout, Env: env, Inherit: p.Inherit, As: p.As}
}

// Has says whether there are programs in a directory. One that cannot be read counts: who runs it
// says why.
func (p Programs) Has(folder string) bool {
	names, err := p.dir(folder).Names()
	return err != nil || len(names) > 0
}

// Stage has the programs of stage.d look at a release that is on the volume, and not current. They
// are not asked about the release that was current before: the way back must not depend on them.
func Stage(ctx context.Context, v *release.Volume, p Programs, to Target) error {
	current, err := v.Current()
	if err != nil || to.Release == current || to.Release == v.Previous() {
		return err
	}
	return p.ask(ctx, v, StageFolder, to)
}

// from is what an activation of this has to be decided on: where it takes the application out of
// service, it is to be drained.
func (p Programs) from(v *release.Volume, to Target) (release.From, error) {
	current, err := v.Current()
	return release.From{Release: current, Drained: current != "" && current != to.Release && p.Has(DrainFolder)}, err
}

func (p Programs) drain(ctx context.Context, v *release.Volume, to Target) (release.From, error) {
	from, err := p.from(v, to)
	if err != nil || !from.Drained { // it may have become current meanwhile
		return from, err
	}
	if err := v.MarkDrained(ctx); err != nil {
		return from, err
	}
	return from, p.ask(ctx, v, DrainFolder, to)
}

// ask runs the programs of a directory that may refuse a release.
func (p Programs) ask(ctx context.Context, v *release.Volume, folder string, to Target) error {
	current, err := v.Current()
	if err != nil {
		return err
	}
	d := p.dir(folder, append(environment(v, to.Release, to.Generation, current), "EBS_RELEASE_STAGED="+v.Path(to.Release))...)
	err = d.Run(ctx)
	if failed, ok := errors.AsType[*hook.Failure](err); ok {
		return refused{fmt.Errorf("run %s: %s", d.Path, failed)}
	}
	return err
}

// serve runs what puts the current release into service, and waits until it is.
func (p Programs) serve(ctx context.Context, v *release.Volume, id string, n int64) error {
	env := environment(v, id, n, v.Previous())
	d := p.dir(ActivateFolder, env...)
	if err := d.Run(ctx); err != nil {
		return fmt.Errorf("run %s: %w", d.Path, err)
	}
	return p.awaitReady(ctx, p.dir(ReadyFolder, env...), func() error { return stillDue(v, id) })
}

// awaitReady runs all programs of a directory until all have succeeded in one round, or until still
// has an error.
func (p Programs) awaitReady(ctx context.Context, d hook.Dir, still func() error) error {
	limited, cancel := context.WithTimeout(ctx, p.Ready)
	defer cancel()
	last := hook.Failure{Name: ReadyFolder, Code: -1, Line: "no round of its programs came to its end"}
	for {
		err := d.Run(limited)
		if err == nil {
			return nil
		}
		if failed, ok := errors.AsType[*hook.Failure](err); ok {
			last = *failed
			last.Name = ReadyFolder + "/" + failed.Name // as there may be one of that name in activate.d
		}
		if err := still(); err != nil {
			return err
		}
		if smithytime.SleepWithContext(limited, readyPause) != nil {
			break
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("run %s for %v: %w", d.Path, p.Ready, &last)
}

// stillDue is an error when nobody has to wait any more for a release to serve: another one is
// current, or its programs wait for these. An application that does not come up must not keep the
// way back waiting.
func stillDue(v *release.Volume, id string) error {
	current, err := v.Current()
	if err == nil && current != id {
		err = fmt.Errorf("%w: release %s is current, not %s", release.ErrFenced, current, id)
	}
	if err != nil {
		return Fenced(err)
	}
	awaited, err := v.ProgramsAwaited()
	if awaited {
		err = fmt.Errorf("%w, or about to be: its programs wait for those of release %s", release.ErrFenced, id)
	}
	return Fenced(err)
}

func environment(v *release.Volume, id string, n int64, previous string) []string {
	return []string{
		fmt.Sprintf("EBS_RELEASE_GENERATION=%d", n), "EBS_RELEASE_ID=" + id,
		"EBS_RELEASE_PATH=" + v.Root() + "/current", "EBS_RELEASE_PREVIOUS=" + previous,
	}
}
