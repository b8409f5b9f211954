package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"ebs-release/internal/exit"

	"golang.org/x/sys/unix"
)

// takeLock waits for the flock that one `up` at a time holds. It goes with the process, however that ends.
func takeLock(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", asRoot(err))
	}
	if err := f.Chmod(0o644); err != nil { // whatever the umask is: the ssh user looks whether it is held
		f.Close()
		return nil, fmt.Errorf("open the lock: %w", asRoot(err))
	}
	for {
		err := flock(f, unix.LOCK_EX)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, exit.With(lockCode(ctx), fmt.Errorf("wait for another `up` that holds %s: %w. Try: ebs-release-agent status (where it is)", path, ctx.Err()))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// asRoot says what to do when a right is missing.
func asRoot(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w. Try: run it as root", err)
	}
	return err
}

func lockCode(ctx context.Context) int {
	if errors.Is(ctx.Err(), context.Canceled) {
		return exit.Interrupted
	}
	return exit.Conflict
}

// isLocked says whether an `up` goes on. It needs no right but to read the file, and does not keep the lock.
func isLocked(path string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = flock(f, unix.LOCK_SH)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
