package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// effects are the system calls by which a program changes the world outside itself.
var effects = map[uint64]string{
	unix.SYS_WRITE: "write", unix.SYS_PWRITE64: "pwrite64", unix.SYS_SENDTO: "sendto", unix.SYS_SENDMSG: "sendmsg",
	unix.SYS_OPENAT: "openat", unix.SYS_MKDIRAT: "mkdirat", unix.SYS_UNLINKAT: "unlinkat", unix.SYS_RENAMEAT: "renameat",
	unix.SYS_RENAMEAT2: "renameat2", unix.SYS_SYMLINKAT: "symlinkat", unix.SYS_LINKAT: "linkat", unix.SYS_FTRUNCATE: "ftruncate",
	unix.SYS_FCHMOD: "fchmod", unix.SYS_FCHMODAT: "fchmodat", unix.SYS_FCHOWN: "fchown", unix.SYS_FCHOWNAT: "fchownat", unix.SYS_FLOCK: "flock",
	unix.SYS_MOUNT: "mount", unix.SYS_UMOUNT2: "umount2", unix.SYS_FSOPEN: "fsopen", unix.SYS_FSCONFIG: "fsconfig", unix.SYS_FSMOUNT: "fsmount",
	unix.SYS_MOVE_MOUNT: "move_mount", unix.SYS_OPEN_TREE: "open_tree", unix.SYS_MOUNT_SETATTR: "mount_setattr",
}

// tracer follows a process, by ptrace(2), and sees each of its effects just before it happens. The program is the shipped one and knows nothing of it.
type tracer struct {
	killAt int        // the effect, from 1, in place of which the process is killed; 0: none
	seen   []string   // the effects so far
	done   chan error // gives the end of the trace
	agent  bool       // the traced process has become the agent
}

// attach starts to follow pid. The process runs on when it returns.
func (t *tracer) attach(pid int) error {
	ready := make(chan error)
	t.done = make(chan error, 1)
	go func() {
		runtime.LockOSThread() // a tracer is a thread; it is not unlocked, so the thread ends with it
		err := seize(pid)
		ready <- err
		if err == nil {
			t.done <- t.follow(pid)
		}
	}()
	return <-ready
}

const traceOptions = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK |
	unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_EXITKILL

func seize(pid int) error {
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, traceOptions, 0, 0); errno != 0 {
		return fmt.Errorf("trace %d: %w", pid, errno)
	}
	if err := unix.PtraceInterrupt(pid); err != nil {
		return fmt.Errorf("trace %d: %w", pid, err)
	}
	return nil
}

// follow runs until the process and all its children are gone.
func (t *tracer) follow(root int) error {
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
				unix.Kill(root, unix.SIGKILL)
			}
		case int(status)>>16 == unix.PTRACE_EVENT_EXEC:
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			t.agent = t.agent || strings.HasPrefix(string(name), "ebs-release-age")
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
	syscallEntry   = 1      // PTRACE_SYSCALL_INFO_ENTRY
)

// syscall says whether this is where the process is to be killed. A system call at whose entry a process is killed does not happen.
func (t *tracer) syscall(pid int) bool {
	var info syscallInfo
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(pid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 || info.op != syscallEntry || !t.agent {
		return false
	}
	what := describeEffect(pid, info.nr, info.args)
	if what == "" {
		return false
	}
	t.seen = append(t.seen, what)
	return len(t.seen) == t.killAt
}

// describeEffect is "" for a system call that changes nothing outside the process.
func describeEffect(pid int, nr uint64, args [6]uint64) string {
	name := effects[nr]
	fd := func(n uint64) string {
		target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, int32(n)))
		return target
	}
	switch nr {
	case unix.SYS_WRITE, unix.SYS_PWRITE64:
		target := fd(args[0])
		if args[0] <= 2 || strings.HasPrefix(target, "pipe:") || strings.HasPrefix(target, "anon_inode:") {
			return "" // what it says, and what it says to itself
		}
		return name + " " + plain(target)
	case unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_FTRUNCATE, unix.SYS_FCHMOD, unix.SYS_FCHOWN, unix.SYS_FLOCK:
		return name + " " + plain(fd(args[0]))
	case unix.SYS_OPENAT:
		if args[2]&(unix.O_CREAT|unix.O_WRONLY|unix.O_RDWR|unix.O_TRUNC) == 0 {
			return ""
		}
		return name + " " + plain(text(pid, args[1]))
	case unix.SYS_MKDIRAT, unix.SYS_UNLINKAT, unix.SYS_FCHMODAT, unix.SYS_FCHOWNAT:
		return name + " " + plain(text(pid, args[1]))
	case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_LINKAT:
		return name + " " + plain(text(pid, args[1])) + " " + text(pid, args[3])
	case unix.SYS_SYMLINKAT:
		return name + " " + text(pid, args[2])
	case unix.SYS_FSCONFIG:
		return fmt.Sprintf("%s %d", name, args[1])
	}
	return name
}

// plain takes what differs from run to run out of a name: temporary names, numbers of sockets.
func plain(name string) string {
	if strings.HasPrefix(name, "socket:") {
		return "socket"
	}
	if dir, base := path.Split(name); strings.HasPrefix(base, ".") {
		return dir + strings.TrimRight(base, "0123456789")
	}
	return name
}

// text reads a string of the process.
func text(pid int, at uint64) string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return ""
	}
	defer f.Close()
	buf := make([]byte, 256)
	n, _ := f.ReadAt(buf, int64(at))
	s, _, _ := bytes.Cut(buf[:n], []byte{0})
	return string(s)
}
