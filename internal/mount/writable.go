package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ReadOnly says by which mount option nothing can be written to the file system; "": none. It is read from mountinfo: the disk is not touched.
func (m Mounted) ReadOnly() string {
	// ext4 says the last two after errors (errors=remount-ro), and of one that was shut down; before Linux 6.14 it says `ro`.
	for option := range strings.SplitSeq(m.Options+","+m.SuperOptions, ",") {
		if slices.Contains([]string{"ro", "emergency_ro", "shutdown"}, option) {
			return option
		}
	}
	return ""
}

// TryWriteVerb is the verb of a program that uses Writable: it calls TryWrite with the path that comes after it.
const TryWriteVerb = "try-write"

// ErrStuck is a write that does not come through: the file system is frozen, or its disk does not answer.
var ErrStuck = errors.New("a write does not come through")

// Writable makes sure that writes to the file system at point come through within limit: else it is an ErrStuck. Nothing says of a file system that it is frozen,
// and a write to one can't be interrupted or killed: a child process tries. One that hangs ends with the thaw, and has changed nothing then.
func Writable(ctx context.Context, point string, limit time.Duration) error {
	says, talk, err := os.Pipe()
	if err != nil {
		return err
	}
	defer says.Close()
	child := exec.Command("/proc/self/exe", TryWriteVerb, point) // not CommandContext, and all its streams are files: nobody must have to wait for it
	child.Dir, child.Env, child.Stderr = "/", []string{}, talk
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it may outlive the terminal
	err = child.Start()
	talk.Close()
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

// TryWrite waits until writes to the file system at path are let through, and writes nothing: unlink(2) asks for the right to write before it looks the name
// up, and the name is none. While the file system is frozen the calling thread can't be killed, so that it is for a process of its own (Writable).
func TryWrite(path string) error {
	err := unix.Unlink(filepath.Join(path, fmt.Sprintf(".ebs-release-none-%d", os.Getpid())))
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("write to %s: %w", path, err)
	}
	return nil
}
