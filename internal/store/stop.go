package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"ebs-release/internal/flock"

	smithytime "github.com/aws/smithy-go/time"
)

// lockPoll is how often Stop looks whether the lock is free.
const lockPoll = 100 * time.Millisecond

// Stop asks the publish that holds the lock to end (SIGTERM: it takes back what it did, and thaws),
// and waits until the lock is free or ctx ends. The lock itself cannot be taken away: it is
// flock(2), which goes with its process and not before. stopped says that there was a holder. A
// holder that is not a process of this machine, or did not leave its name, is left alone:
// ErrLocked.
func (d *Directory) Stop(ctx context.Context) (holder Holder, stopped bool, err error) {
	holder, held, err := d.Holder(ctx)
	if err != nil || !held {
		return holder, false, err
	}
	pid := holder.PID
	mine := false
	if pid > 0 {
		if mine, err = d.holds(pid); err != nil {
			return holder, true, err
		}
	}
	if !mine {
		return holder, true, fmt.Errorf("%w: the lock %s is held by %s, which is no publish on this machine; end it there",
			ErrLocked, filepath.Join(d.dir, lockName), holder)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return holder, true, fmt.Errorf("stop %s: %w", holder, err)
	}
	// One that is stopped (Ctrl-Z) acts on no signal before it goes on.
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
		return holder, true, fmt.Errorf("let %s go on, so that it can end: %w", holder, err)
	}
	for {
		now, held, err := d.Holder(ctx)
		switch {
		case err != nil:
			return holder, true, err
		case !held || now.PID != 0 && now.PID != pid: // free, or the next one has it
			return holder, true, nil
		}
		if err := smithytime.SleepWithContext(ctx, lockPoll); err != nil {
			return holder, true, fmt.Errorf("%w: %s was asked to stop, and has not ended yet", ErrLocked, holder)
		}
	}
}

// holds says whether the process has the lock, by the kernel's word. A name in the file proves
// nothing: its number may be another host's, or another process's by now.
func (d *Directory) holds(pid int) (bool, error) {
	held, err := flock.HeldBy(filepath.Join(d.dir, lockName), pid)
	if err != nil {
		return false, fmt.Errorf("publish lock: %w", err)
	}
	return held, nil
}
