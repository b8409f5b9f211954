package release

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/flock"
	"ebs-release/internal/generation"
	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

// Two files of a volume say where it stands, each as a stamp: "42 20261122T231500Z-9f31c0de77aa\n".
//
// The fence is the highest generation that was activated here, with its release: a lower one is
// refused. The mark is the generation whose programs (activate.d) have all succeeded here: where it
// is not that of the fence, the application may still serve the release before. Once drain.d has
// begun to take the application out of service, the mark is drainedMark, until they have all
// succeeded again.
const (
	fenceName    = "generation"
	fencePath    = stateDir + "/" + fenceName
	markName     = "activated"
	markPath     = stateDir + "/" + markName
	drainedMark  = "drained\n"
	maxFence     = 4096                         // bytes of one of them
	programsLock = stateDir + "/activated.lock" // flock: the programs of one activation at a time
	programsNext = stateDir + "/activated.next" // flock: of who waits for that one
)

// errStamp: the file is there, and what is in it cannot be a stamp.
var errStamp = errors.New("not a generation and a release")

// stamp reads a stamp; zero values when there is no such file.
func (v *Volume) stamp(name string) (n int64, id string, err error) {
	data, err := v.readPlain(name, maxFence)
	switch {
	case err != nil:
		return 0, "", fmt.Errorf("generation of %s: %w", v.path, err)
	case data == nil:
		return 0, "", nil
	}
	number, id, _ := strings.Cut(strings.TrimSuffix(string(data), "\n"), " ")
	n, err = generation.Parse(number)
	if err != nil || !manifest.ValidID(id) {
		return 0, "", advice.Try(fmt.Errorf("%s/%s holds %.40q: %w", v.path, name, data, errStamp), "ebs-release-agent fence")
	}
	return n, id, nil
}

func (v *Volume) writeStamp(name string, n int64, id string) error {
	return v.replaceText(name, stateMode, fmt.Sprintf("%d %s\n", n, id))
}

// marked says whether the mark is this one. A mark that cannot be read is none: then the programs
// run again.
func (v *Volume) marked(n int64, id string) (bool, error) {
	have, of, err := v.stamp(markPath)
	if errors.Is(err, errStamp) {
		return false, nil
	}
	return err == nil && n > 0 && have == n && of == id, err
}

// Generation returns the highest generation that was activated here; 0 when there was none.
func (v *Volume) Generation() (int64, error) {
	n, _, err := v.Fence()
	return n, err
}

// Fence returns the highest generation that was activated here, and its release; 0 and "" when
// there was none.
func (v *Volume) Fence() (n int64, id string, err error) {
	return v.stamp(fencePath)
}

// ProgramsDone says whether the programs that follow an activation have all succeeded for what is
// active here.
func (v *Volume) ProgramsDone() (bool, error) {
	n, id, err := v.Fence()
	if err != nil {
		return false, err
	}
	return v.marked(n, id)
}

// CheckActive says whether this release is the one that is active here, by the fence and by what
// `current` leads to. ErrFenced: the fence is above it.
func (v *Volume) CheckActive(id string, n int64) error {
	have, active, err := v.Fence()
	if err != nil {
		return err
	}
	current, err := v.Current()
	switch {
	case err != nil:
		return err
	case have > n:
		return fmt.Errorf("%w: %d, release %s, want generation %d, release %s", ErrFenced, have, active, n, id)
	case have != n || active != id:
		return fmt.Errorf("generation %d, release %q is active on %s, want generation %d, release %s", have, active, v.path, n, id)
	case current != id:
		return fmt.Errorf("%s/%s leads to release %q, want %s", v.path, currentName, current, id)
	}
	return nil
}

// MarkDone says, on disk, that all programs have succeeded for this activation. ErrFenced:
// something newer is active by now.
func (v *Volume) MarkDone(ctx context.Context, id string, n int64) error {
	return v.locked(ctx, func() error {
		have, active, err := v.Fence()
		switch {
		case err != nil:
			return err
		case have != n || active != id:
			return fmt.Errorf("%w: %d, release %s", ErrFenced, have, active)
		}
		return v.mark(n, id)
	})
}

func (v *Volume) mark(n int64, id string) error {
	if done, err := v.marked(n, id); err != nil || done {
		return err
	}
	return v.writeStamp(markName, n, id)
}

// MarkDrained says, on disk, that the programs of activate.d have to run for whatever is current,
// as those of drain.d are about to.
func (v *Volume) MarkDrained(ctx context.Context) error {
	return v.locked(ctx, func() error { return v.replaceText(markName, stateMode, drainedMark) })
}

// Drained says whether programs of drain.d have begun to run here, and those of activate.d have not
// succeeded since.
func (v *Volume) Drained() (bool, error) {
	data, err := v.readPlain(markPath, maxFence)
	return string(data) == drainedMark, err
}

// LockPrograms waits until no other process runs the programs of an activation, and keeps it so
// until unlock. It is not the lock of the volume: programs may take minutes, and a newer release is
// activated meanwhile all the same.
func (v *Volume) LockPrograms(ctx context.Context) (unlock func(), err error) {
	next, err := v.openLock(programsNext)
	if err != nil {
		return nil, err
	}
	defer func() { _ = next.Close() }()
	if err := v.flock(ctx, next, programsNext); err != nil {
		return nil, err
	}
	file, err := v.openLock(programsLock)
	if err != nil {
		return nil, err
	}
	if err := v.flock(ctx, file, programsLock); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() { _ = file.Close() }, nil
}

// ProgramsAwaited says whether another process waits in LockPrograms.
func (v *Volume) ProgramsAwaited() (bool, error) {
	next, err := v.openLock(programsNext)
	if err != nil {
		return false, err
	}
	defer func() { _ = next.Close() }()
	err = flock.Try(next)
	if errors.Is(err, flock.ErrHeld) {
		return true, nil
	}
	return false, err
}

// openLock opens a file that is there for its lock alone.
func (v *Volume) openLock(name string) (*os.File, error) {
	file, err := v.openRegular(name, unix.O_RDONLY|unix.O_CREAT, 0o600, maxFence)
	if err != nil {
		return nil, fmt.Errorf("lock the programs of %s: %w", v.path, err)
	}
	if who, err := v.owner(); err != nil || who != asIs && file.Chown(who.uid, who.gid) != nil {
		return nil, errors.Join(fmt.Errorf("lock %s/%s: it cannot be given to the owner of the tree", v.path, name), err, file.Close())
	}
	return file, nil
}

// Raise raises the fence for a release that is current here already. Nothing changes for the
// application, so programs that have succeeded need not run again: the mark goes with the fence.
// ErrNotCurrent: it is current no more.
func (v *Volume) Raise(ctx context.Context, id, digest string, n int64) error {
	if err := errors.Join(manifest.CheckID(id), generation.Check(n)); err != nil {
		return fmt.Errorf("raise the fence: %w", err)
	}
	err := v.locked(ctx, func() error {
		have, active, err := v.Fence()
		if err != nil {
			return err
		}
		done, err := v.marked(have, active)
		if err != nil {
			return err
		}
		if err := v.checkCurrent(id); err != nil {
			return err
		}
		if err := v.activate(id, digest, n); err != nil || !done || active != id {
			return err
		}
		return v.mark(n, id)
	})
	if err != nil {
		return fmt.Errorf("raise the fence to generation %d, release %s: %w", n, id, err)
	}
	return nil
}

// LowerFence sets the fence back to a generation of the release that is current. It is for an
// operator only: one wrong answer with a high number would refuse every boot and push for ever.
// Until the next activation, a late one of anything above n would not be refused.
func (v *Volume) LowerFence(ctx context.Context, n int64) error {
	if err := generation.Check(n); err != nil {
		return fmt.Errorf("lower the fence: %w", err)
	}
	err := v.locked(ctx, func() error {
		id, err := v.Current()
		if err == nil && id == "" {
			err = errors.New("no release is current there")
		}
		if err != nil {
			return err
		}
		have, active, err := v.Fence()
		if errors.Is(err, errStamp) {
			return v.writeStamp(fenceName, n, id)
		}
		if err != nil {
			return err
		}
		if have <= n {
			return fmt.Errorf("it is at generation %d: it can only be set to a lower one", have)
		}
		done, err := v.marked(have, active)
		if err != nil {
			return err
		}
		if err := v.writeStamp(fenceName, n, id); err != nil || !done || active != id {
			return err
		}
		return v.mark(n, id)
	})
	if err != nil {
		return fmt.Errorf("lower the fence of %s to generation %d: %w", v.path, n, err)
	}
	return nil
}
