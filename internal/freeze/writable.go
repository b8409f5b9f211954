package freeze

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"ebs-release/internal/process"

	"golang.org/x/sys/unix"
)

// TryWriteVerb is the verb of a program that uses Writable: it calls TryWrite with the path that
// comes after it.
const TryWriteVerb = "try-write"

// ErrStuck is a write that does not come through: the file system is frozen, or its disk does not
// answer.
var ErrStuck = errors.New("a write does not come through")

// Writable makes sure that writes to the file system at point come through within limit: else it is
// an ErrStuck. Nothing says of a file system that it is frozen, and a write to one cannot be
// interrupted or killed: a child process tries. One that hangs ends with the thaw, and has changed
// nothing then; as long as one does, it is the answer, and no further one is started.
func Writable(ctx context.Context, point string, limit time.Duration) error {
	if pid := stuckProbe(point, limit); pid != 0 {
		return fmt.Errorf("%s: %w: process %d has tried for more than %v", point, ErrStuck, pid, limit)
	}
	says, talk, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = says.Close() }()
	// Not CommandContext, and all its streams are files: nobody must have to wait for it.
	child := exec.Command("/proc/self/exe", TryWriteVerb, point)
	child.Dir, child.Env, child.Stderr = "/", []string{}, talk
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it may outlive the terminal
	err = child.Start()
	_ = talk.Close()
	if err != nil {
		return fmt.Errorf("try to write to %s: %w", point, err)
	}
	done := make(chan error, 1)
	go func() { done <- child.Wait() }() // ends with the child
	clock := time.NewTimer(limit)
	defer clock.Stop()
	select {
	case err := <-done:
		if err != nil {
			why, _ := io.ReadAll(says)
			return fmt.Errorf("nothing can be written to %s: %w: %s", point, err, bytes.TrimSpace(why))
		}
		return nil
	case <-clock.C:
		return fmt.Errorf("%s: %w in %v", point, ErrStuck, limit)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stuckProbe finds a child of an earlier Writable, of any process of this user, that has not come
// through to point for longer than a limit; 0: none.
func stuckProbe(point string, limit time.Duration) (pid int) {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return 0
	}
	processes, _ := process.All()
	for _, p := range processes {
		if !bytes.HasSuffix([]byte(p.Read("cmdline")), []byte("\x00"+TryWriteVerb+"\x00"+point+"\x00")) {
			continue
		}
		if !p.Mine() {
			continue // anybody can say of himself that he tries
		}
		if state, began, ok := p.State(); ok && state == "D" && time.Duration(now.Nano())-began > limit {
			return p.PID()
		}
	}
	return 0
}

// TryWrite waits until writes to the file system at path are let through, and writes nothing:
// unlink(2) asks for the right to write before it looks the name up, and the name is none. While
// the file system is frozen the calling thread cannot be killed, so that it is for a process of its
// own (Writable).
func TryWrite(path string) error {
	err := unix.Unlink(filepath.Join(path, fmt.Sprintf(".ebs-release-none-%d", os.Getpid())))
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("write to %s: %w", path, err)
	}
	return nil
}
