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
	"strconv"
	"strings"
	"syscall"
	"time"

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

// stuckProbe finds a child of an earlier Writable, of any process of this user, that has not come
// through to point for longer than a limit; 0: none.
func stuckProbe(point string, limit time.Duration) (pid int) {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return 0
	}
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range processes {
		command, _ := os.ReadFile(dir + "/cmdline") // gone: empty
		if !bytes.HasSuffix(command, []byte("\x00"+TryWriteVerb+"\x00"+point+"\x00")) {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(dir, &st) != nil || int(st.Uid) != os.Geteuid() {
			continue // anybody can say of himself that he tries
		}
		stat, _ := os.ReadFile(dir + "/stat")
		_, after, _ := strings.Cut(string(stat), ") ") // behind the name: state, and as the 20th since when, in 1/100 s since boot: proc_pid_stat(5)
		fields := strings.Fields(after)
		if len(fields) < 20 || fields[0] != "D" {
			continue
		}
		since, err := strconv.ParseInt(fields[19], 10, 64)
		if err == nil && time.Duration(now.Nano())-time.Duration(since)*10*time.Millisecond > limit {
			pid, _ = strconv.Atoi(filepath.Base(dir))
			return pid
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
