package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tracer follows a program, by ptrace(2), and sees each of its effects just before it happens. The
// program is the shipped one and knows nothing of it.
type tracer struct {
	program string                    // what counts begins when the process becomes this program
	effect  func(syscallEntry) string // what a system call changes for others to see; "": nothing
	follow  func(pid int) bool        // whether a child that starts another program is followed on; nil: all are
	orphans bool                      // what the program leaves running goes on when this test dies
	killAt  int                       // the effect, from 1, in place of which the process is killed; 0: none
	killAll bool                      // the child that has the effect is killed with it
	hold    bool                      // nobody is killed: the thread that has the effect gets no further, as one that waits for a disk

	done   chan error // gives the end of the trace: all that was followed is gone
	seen   []string   // the effects so far
	killed time.Time
	began  bool
}

// attach starts to follow pid. The process runs on when it returns.
func (t *tracer) attach(pid int) error {
	ready := make(chan error)
	t.done = make(chan error, 1)
	onBareThread(func() {
		err := t.seize(pid)
		ready <- err
		if err == nil {
			t.done <- t.trace(pid)
		}
	})
	return <-ready
}

// onBareThread runs do on a thread of its own that has started no process: a tracer is a thread,
// its wait4 would take the end of such a process from whoever waits for it, and PR_SET_PDEATHSIG
// would kill it when the thread ends.
func onBareThread(do func()) {
	go func() {
		runtime.LockOSThread()
		if children, _ := os.ReadFile("/proc/thread-self/children"); len(children) == 0 {
			do() // not unlocked: the thread ends with it
			return
		}
		found := make(chan struct{})
		onBareThread(func() { close(found); do() })
		<-found // held until then, so that the next try has another thread
		runtime.UnlockOSThread()
	}()
}

func (t *tracer) seize(pid int) error {
	options := uintptr(unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACEEXEC)
	if !t.orphans {
		options |= unix.PTRACE_O_EXITKILL
	}
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, options, 0, 0); errno != 0 {
		return fmt.Errorf("trace %d: %w", pid, errno)
	}
	if err := unix.PtraceInterrupt(pid); err != nil {
		return fmt.Errorf("trace %d: %w", pid, err)
	}
	return nil
}

// trace runs until the process and all children that are followed are gone.
func (t *tracer) trace(root int) error {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WALL|unix.WNOTHREAD, nil) // of this thread's tracees only
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			return nil
		case err != nil:
			return fmt.Errorf("wait for tracees: %w", err)
		case !status.Stopped():
			continue // one that ended
		}
		signal := 0
		switch {
		case status.StopSignal() == unix.SIGTRAP|0x80:
			if t.syscall(pid) {
				if t.hold {
					continue // until the process is killed, or this thread ends
				}
				t.killed = time.Now()
				unix.Kill(root, unix.SIGKILL) // a system call at whose entry a process is killed does not happen
				if t.killAll {
					unix.Kill(pid, unix.SIGKILL)
				}
			}
		case int(status)>>16 == unix.PTRACE_EVENT_EXEC:
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)) // 15 characters of it
			if pid == root {
				t.began = t.began || strings.TrimSpace(string(name)) == t.program[:min(15, len(t.program))]
			} else if t.follow != nil && !t.follow(pid) {
				unix.PtraceDetach(pid)
				continue
			}
		case int(status)>>16 != 0: // a new thread or child, or our own interrupt
		default:
			signal = int(status.StopSignal())
		}
		if err := unix.PtraceSyscall(pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("trace %d: %w", pid, err)
		}
	}
}

// syscallInfo is struct ptrace_syscall_info of linux/ptrace.h, for an entry.
type syscallInfo struct {
	op   uint8
	_    [3]uint8
	arch uint32
	_    [2]uint64
	nr   uint64
	args [6]uint64
	_    [2]uint64
}

const (
	getSyscallInfo = 0x420e // PTRACE_GET_SYSCALL_INFO
	atEntry        = 1      // PTRACE_SYSCALL_INFO_ENTRY
)

// syscall says whether this is where the process is to be killed.
func (t *tracer) syscall(pid int) bool {
	var info syscallInfo
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(pid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 || info.op != atEntry || !t.began {
		return false
	}
	what := t.effect(syscallEntry{pid, info.nr, info.args})
	if what == "" {
		return false
	}
	t.seen = append(t.seen, what)
	return len(t.seen) == t.killAt
}

// syscallEntry is a system call that a process is about to make.
type syscallEntry struct {
	pid  int
	nr   uint64
	args [6]uint64
}

// fd is what the argument n, a file descriptor, has open.
func (s syscallEntry) fd(n int) string {
	path, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", s.pid, int32(s.args[n])))
	return path
}

// path is the file that the arguments n, a directory, and n+1, a path, name.
func (s syscallEntry) path(n int) string {
	path := s.text(n + 1)
	switch {
	case strings.HasPrefix(path, "/"):
		return path
	case int32(s.args[n]) == unix.AT_FDCWD:
		cwd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", s.pid))
		return filepath.Join(cwd, path)
	}
	return filepath.Join(s.fd(n), path)
}

// text is the string that the argument n points to.
func (s syscallEntry) text(n int) string {
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", s.pid))
	if err != nil {
		return ""
	}
	defer mem.Close()
	buf := make([]byte, unix.PathMax)
	got, _ := mem.ReadAt(buf, int64(s.args[n])) // as far as it is mapped
	text, _, _ := bytes.Cut(buf[:got], []byte{0})
	return string(text)
}
