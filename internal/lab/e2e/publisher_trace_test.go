package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tracerVerb makes the test's program a tracer: it runs another program under ptrace(2), writes down its effects, and kills it just before a chosen
// one. An effect is a system call of the program, or of its freeze guard, that others can see the result of.
const tracerVerb = "trace-effects"

// runTracer is the tracer's main: trace-effects NUMBER REPORT ROOT,ROOT PROGRAM ARGS…. It kills PROGRAM before its effect NUMBER, counted from 1 (0: not
// at all), and writes the effects until then into REPORT, a line each.
func runTracer(args []string) int {
	runtime.LockOSThread() // a tracee has one thread for a tracer
	at, err := strconv.Atoi(args[0])
	if err != nil {
		return traceFailed(err)
	}
	t := &publisherTracer{at: at, roots: strings.Split(args[2], ","), threads: map[int]bool{}}
	code, err := t.run(args[3:])
	err = errors.Join(err, os.WriteFile(args[1], []byte(strings.Join(t.effects, "\n")), 0o644),
		os.WriteFile(args[1]+".killed", []byte(strconv.FormatInt(t.killed.UnixNano(), 10)), 0o644))
	if err != nil {
		return traceFailed(err)
	}
	return code
}

func traceFailed(err error) int {
	fmt.Fprintln(os.Stderr, "trace:", err)
	return 99
}

type publisherTracer struct {
	at      int
	roots   []string
	main    int // process id of the program
	threads map[int]bool
	effects []string
	killed  time.Time
}

func (t *publisherTracer) run(argv []string) (code int, err error) {
	p, err := os.StartProcess(argv[0], argv, &os.ProcAttr{
		Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Ptrace: true},
	})
	if err != nil {
		return 0, err
	}
	t.main = p.Pid
	var ws unix.WaitStatus
	if _, err := unix.Wait4(t.main, &ws, unix.WALL, nil); err != nil {
		return 0, err
	}
	t.threads[t.main] = true
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACEEXEC
	if err := unix.PtraceSetOptions(t.main, options); err != nil {
		return 0, err
	}
	if err := unix.PtraceSyscall(t.main, 0); err != nil {
		return 0, err
	}
	for {
		tid, err := unix.Wait4(-1, &ws, unix.WALL, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.ECHILD) { // its guard is gone as well: without a tracer half way, a new thread would be stopped
			return code, nil
		}
		if err != nil {
			return 0, err
		}
		switch {
		case tid == t.main && ws.Exited():
			code = ws.ExitStatus()
		case tid == t.main && ws.Signaled():
			code = 128 + int(ws.Signal())
		case ws.Stopped():
			t.stopped(tid, ws)
		}
	}
}

// stopped looks at a thread that stopped and lets it go on. One that was killed meanwhile does not, and needs nothing more.
func (t *publisherTracer) stopped(tid int, ws unix.WaitStatus) {
	signal := 0
	switch stop := ws.StopSignal(); {
	case stop == unix.SIGTRAP|0x80:
		if effect := t.effect(tid); effect != "" {
			t.effects = append(t.effects, effect)
			if len(t.effects) == t.at {
				t.killed = time.Now()
				_ = unix.Kill(t.main, unix.SIGKILL) // a system call that it stands before is not carried out; its guard goes on
			}
		}
	case stop == unix.SIGTRAP && ws.TrapCause() == unix.PTRACE_EVENT_EXEC:
		if !t.isGuard(tid) { // ssh, rsync: what they do is theirs
			_ = unix.PtraceDetach(tid)
			return
		}
	case stop == unix.SIGTRAP && ws.TrapCause() > 0:
	case stop == unix.SIGSTOP && !t.threads[tid]: // a new one
	default:
		signal = int(stop)
	}
	t.threads[tid] = true
	_ = unix.PtraceSyscall(tid, signal)
}

func (t *publisherTracer) isGuard(tid int) bool {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", tid))
	return bytes.Contains(line, []byte("\x00freeze-guard\x00"))
}

// Requests of ioctl(2), linux/fs.h.
const (
	fiFreeze = 0xC0045877
	fiThaw   = 0xC0045878
)

// effect names what a thread is about to do, "" when nobody will see it.
func (t *publisherTracer) effect(tid int) string {
	const getSyscallInfo, entry = 0x420e, 1 // linux/ptrace.h
	var info [88]byte
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(tid), uintptr(len(info)), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 || info[0] != entry {
		return ""
	}
	nr := binary.LittleEndian.Uint64(info[24:])
	arg := func(n int) uint64 { return binary.LittleEndian.Uint64(info[32+8*n:]) }
	fd := func(n int) string { return t.kept(t.open(tid, arg(n))) }
	at := func(n int) string { return t.kept(t.path(tid, arg(n), arg(n+1))) }
	name := func(what, path string) string {
		if path == "" {
			return ""
		}
		return what + " " + path
	}
	switch nr {
	case unix.SYS_EXECVE:
		return "exec " + filepath.Base(t.text(tid, arg(0)))
	case unix.SYS_IOCTL:
		switch arg(1) {
		case fiFreeze:
			return "freeze"
		case fiThaw:
			return "thaw"
		}
	case unix.SYS_OPENAT:
		if arg(2)&(unix.O_CREAT|unix.O_TRUNC) != 0 || arg(2)&unix.O_TMPFILE == unix.O_TMPFILE {
			return name("create", at(0))
		}
	case unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_WRITEV:
		return name("write", fd(0))
	case unix.SYS_COPY_FILE_RANGE:
		return name("write", fd(2))
	case unix.SYS_SENDFILE:
		return name("write", fd(0))
	case unix.SYS_FTRUNCATE:
		return name("truncate", fd(0))
	case unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNCFS:
		return name("sync", fd(0))
	case unix.SYS_FLOCK:
		return name("lock", fd(0))
	case unix.SYS_FCHMOD:
		return name("chmod", fd(0))
	case unix.SYS_FCHOWN:
		return name("chown", fd(0))
	case unix.SYS_FCHMODAT:
		return name("chmod", at(0))
	case unix.SYS_FCHOWNAT:
		return name("chown", at(0))
	case unix.SYS_UTIMENSAT:
		return name("utimes", at(0))
	case unix.SYS_MKDIRAT:
		return name("mkdir", at(0))
	case unix.SYS_UNLINKAT:
		return name("unlink", at(0))
	case unix.SYS_SYMLINKAT:
		return name("symlink", at(1))
	case unix.SYS_LINKAT:
		return name("link", at(2))
	case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2:
		return name("rename", at(2))
	}
	return ""
}

// open is the path of an open file.
func (t *publisherTracer) open(tid int, fd uint64) string {
	path, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, int32(fd)))
	return path
}

func (t *publisherTracer) path(tid int, dir, pointer uint64) string {
	path := t.text(tid, pointer)
	switch {
	case strings.HasPrefix(path, "/"):
		return path
	case int32(dir) == unix.AT_FDCWD:
		cwd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", tid))
		return filepath.Join(cwd, path)
	}
	return filepath.Join(t.open(tid, dir), path)
}

// text reads a string of the tracee.
func (t *publisherTracer) text(tid int, pointer uint64) string {
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", tid))
	if err != nil {
		return ""
	}
	defer mem.Close()
	buf := make([]byte, 4096)
	n, _ := mem.ReadAt(buf[:4096-pointer%4096], int64(pointer)) // up to the end of the page
	if end := bytes.IndexByte(buf[:n], 0); end >= 0 {
		return string(buf[:end])
	}
	if n < 4096 {
		more, _ := mem.ReadAt(buf[n:], int64(pointer)+int64(n))
		n += more
	}
	if end := bytes.IndexByte(buf[:n], 0); end >= 0 {
		return string(buf[:end])
	}
	return ""
}

// kept is the path when it is below a root that the tracer watches, and "" when not.
func (t *publisherTracer) kept(path string) string {
	if slices.ContainsFunc(t.roots, func(root string) bool { return path == root || strings.HasPrefix(path, root+"/") }) {
		return path
	}
	return ""
}

var (
	releaseName = regexp.MustCompile(`[0-9]{8}T[0-9]{6}Z-[0-9a-f]{12}`)
	randomName  = regexp.MustCompile(`[0-9]{6,}$`)
)

// effectKind is an effect without the names that are others each time.
func effectKind(effect string) string {
	return randomName.ReplaceAllString(releaseName.ReplaceAllString(effect, "ID"), "RANDOM")
}
