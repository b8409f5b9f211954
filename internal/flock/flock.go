// Package flock is flock(2): a lock on an open file, and the kernel's word on who holds one. Such a
// lock goes with its process, however that ends.
package flock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	smithytime "github.com/aws/smithy-go/time"
	"golang.org/x/sys/unix"
)

// ErrHeld says that another process has the lock.
var ErrHeld = errors.New("another process holds it")

// Try takes the lock on file for this process alone, or says ErrHeld.
func Try(file *os.File) error { return try(file, unix.LOCK_EX) }

// TryShared takes the lock on file together with others who share it, or says ErrHeld.
func TryShared(file *os.File) error { return try(file, unix.LOCK_SH) }

func try(file *os.File, how int) error {
	for {
		switch err := unix.Flock(int(file.Fd()), how|unix.LOCK_NB); {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return ErrHeld
		default:
			return err
		}
	}
}

// Wait takes the lock on file for this process alone. flock(2) itself does not end with ctx, so it
// is tried again after each pause. When ctx ends first, the error is ctx's.
func Wait(ctx context.Context, file *os.File, pause time.Duration) error {
	for {
		err := Try(file)
		if !errors.Is(err, ErrHeld) {
			return err
		}
		if err := smithytime.SleepWithContext(ctx, pause); err != nil {
			return err
		}
	}
}

// Held says whether any process has the lock on the file at path. Anybody may ask: the file is not
// opened, /proc/locks tells who holds what (proc_locks(5)).
func Held(path string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); errors.Is(err, unix.ENOENT) {
		return false, nil
	} else if err != nil {
		return false, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for range 2 { // a lock that goes while the list is read may hide the one behind it
		locks, err := os.ReadFile("/proc/locks")
		if err != nil || listed(string(locks), file) {
			return err == nil, err
		}
	}
	return false, nil
}

// listed looks for "1: FLOCK  ADVISORY  WRITE 917 00:19:1234 0 EOF". One who waits has "->" behind
// the number.
func listed(locks, file string) bool {
	for line := range strings.Lines(locks) {
		if f := strings.Fields(line); len(f) > 5 && f[1] == "FLOCK" && f[5] == file {
			return true
		}
	}
	return false
}

// HeldBy says whether one process has the lock on the file at path for itself alone, by its open
// files (proc_pid_fdinfo(5)). Of another user's process only root may ask.
func HeldBy(path string, pid int) (bool, error) {
	lock, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	files, err := os.ReadDir(filepath.Join(proc, "fd"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at process %d: %w", pid, err)
	}
	for _, fd := range files {
		if open, err := os.Stat(filepath.Join(proc, "fd", fd.Name())); err != nil || !os.SameFile(open, lock) {
			continue // closed meanwhile, or another file
		}
		// lock:	1: FLOCK  ADVISORY  WRITE 2301 08:01:1837065 0 EOF
		info, err := os.ReadFile(filepath.Join(proc, "fdinfo", fd.Name()))
		if err == nil && bytes.Contains(info, []byte("FLOCK")) && bytes.Contains(info, []byte("WRITE")) {
			return true, nil
		}
	}
	return false, nil
}
