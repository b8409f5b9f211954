package up

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/exit"
	"ebs-release/internal/flock"
	"ebs-release/internal/status"

	"golang.org/x/sys/unix"
)

// Lock waits for the flock that one `up` at a time holds. It goes with the process, however that
// ends.
func Lock(ctx context.Context, dir status.Dir) (*os.File, error) {
	path := dir.LockPath()
	f, err := openLock(path)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", status.AsRoot(err))
	}
	err = flock.Wait(ctx, f, 100*time.Millisecond)
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if ctx.Err() != nil {
		return nil, exit.With(lockCode(ctx),
			advice.Try(fmt.Errorf("wait for another `up` that holds %s: %w", path, ctx.Err()), "ebs-release-agent status (where it is)"))
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// openLock opens the lock for its owner alone: whoever may open a file may hold a flock on it. An
// older version made it for everybody to read.
func openLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = advice.Try(fmt.Errorf("%s is no regular file (%s)", path, info.Mode()), "rm %s", path)
	default:
		err = errors.Join(f.Chown(os.Geteuid(), os.Getegid()), f.Chmod(0o600))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func lockCode(ctx context.Context) int {
	if errors.Is(ctx.Err(), context.Canceled) {
		return exit.Interrupted
	}
	return exit.Conflict
}
