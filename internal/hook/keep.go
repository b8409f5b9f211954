package hook

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"ebs-release/internal/process"

	"golang.org/x/sys/unix"
)

// keeperFile is what a keeper has open until the process that started it ends, or wants an end.
const keeperFile = 3

// keptTime is for the end of what a command has started. Only a disk that does not answer takes
// longer.
const keptTime = 5 * time.Second

// killed is the exit code of a shell whose command was killed.
const killed = 128 + int(syscall.SIGKILL)

// keepVerb is the first argument of a keeper.
const keepVerb = "keep-command"

// KeepIfAsked does not return where this process is the child process of a Command.
func KeepIfAsked() {
	if len(os.Args) < 3 || os.Args[1] != keepVerb {
		return
	}
	code, err := keep(os.Args[2], os.Args[3:]...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// keep runs a program, and returns its exit code. When it is over, or the process that asked for
// it is gone, all that it has started is killed, in whatever process group or session. The kernel
// tells of that by end of file, as a process that is killed can tell nobody.
func keep(program string, args ...string) (code int, err error) {
	// Whose parent dies becomes a child of this process, and not of PID 1.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 1, fmt.Errorf("keep %s: become its children's reaper: %w", program, err)
	}
	runtime.LockOSThread() // the kernel counts the end of the thread that forked as that of the parent
	defer runtime.UnlockOSThread()
	wanted := os.NewFile(keeperFile, "the caller's end")
	unix.CloseOnExec(keeperFile)
	cmd := exec.Command(program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	ended, left := make(chan error, 1), make(chan struct{})
	go func() { ended <- cmd.Wait() }()
	go func() { // ends with this process
		_, _ = io.Copy(io.Discard, wanted)
		close(left)
	}()
	select {
	case err = <-ended:
	case <-left:
		return killed, killChildren()
	}
	if failed := killChildren(); failed != nil {
		return 1, failed
	}
	if exited, ok := errors.AsType[*exec.ExitError](err); ok {
		if st, ok := exited.Sys().(syscall.WaitStatus); ok && st.Signaled() {
			return 128 + int(st.Signal()), nil
		}
		return exited.ExitCode(), nil
	}
	return 0, err
}

// killChildren kills them until there are none: those of one that is killed are this process's
// next.
func killChildren() error {
	for end := time.Now().Add(keptTime); ; time.Sleep(time.Millisecond) {
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
		all, err := process.All()
		if err != nil {
			return err
		}
		count := 0
		for _, p := range all {
			if p.Parent() == os.Getpid() {
				count++
				_ = syscall.Kill(p.PID(), syscall.SIGKILL)
			}
		}
		switch {
		case count == 0:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("%d processes that a command has started cannot be killed", count)
		}
	}
}
