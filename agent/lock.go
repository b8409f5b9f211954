package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"ebs-release/internal/exit"

	"golang.org/x/sys/unix"
)

// takeLock waits for the flock that one `up` at a time holds. It goes with the process, however
// that ends.
func takeLock(ctx context.Context, path string) (*os.File, error) {
	f, err := openLock(path)
	if err != nil {
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
			return nil, exit.With(lockCode(ctx),
				fmt.Errorf("wait for another `up` that holds %s: %w. Try: ebs-release-agent status (where it is)", path, ctx.Err()))
		case <-time.After(100 * time.Millisecond):
		}
	}
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
		err = fmt.Errorf("%s is no regular file (%s). Try: rm %s", path, info.Mode(), path)
	default:
		err = errors.Join(f.Chown(os.Geteuid(), os.Getegid()), f.Chmod(0o600))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
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

// isLocked says whether an `up` goes on. Anybody may ask, the ssh user for one: the file is not
// opened, /proc/locks tells who holds what (proc_locks(5)).
func isLocked(path string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); errors.Is(err, unix.ENOENT) {
		return false, nil
	} else if err != nil {
		return false, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for range 2 { // a lock that goes while the list is read may hide the one behind it
		held, err := os.ReadFile("/proc/locks")
		if err != nil || holdsFlock(string(held), file) {
			return err == nil, err
		}
	}
	return false, nil
}

// holdsFlock looks for "1: FLOCK  ADVISORY  WRITE 917 00:19:1234 0 EOF". One who waits has "->"
// behind the number.
func holdsFlock(locks, file string) bool {
	for line := range strings.Lines(locks) {
		if f := strings.Fields(line); len(f) > 5 && f[1] == "FLOCK" && f[5] == file {
			return true
		}
	}
	return false
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
