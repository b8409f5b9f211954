// Package child starts programs that die with this process, however it ends.
package child

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"ebs-release/internal/lab/netns"
)

// Process is a running program.
type Process struct {
	Cmd  *exec.Cmd
	Done chan struct{} // closed when it has ended
	Err  error         // of its end; valid once Done is closed
}

// Start starts cmd in the network namespace ns, nil for the caller's own. When this process ends it
// gets SIGKILL, or the signal that it asks for. The kernel sends that (PR_SET_PDEATHSIG) when the
// thread that started it ends, so that a goroutine of its own holds this thread until the child is
// gone.
func Start(cmd *exec.Cmd, ns *os.File) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if cmd.SysProcAttr.Pdeathsig == 0 {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	p := &Process{Cmd: cmd, Done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		var err error
		if ns == nil {
			err = cmd.Start()
		} else {
			err = netns.Do(ns, cmd.Start)
		}
		started <- err
		if err != nil {
			return
		}
		p.Err = cmd.Wait()
		close(p.Done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// Kill ends the process at once and waits for its end.
func (p *Process) Kill() {
	p.Cmd.Process.Kill() // gone already: fine
	<-p.Done
}

// Running says whether it has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.Done:
		return false
	default:
		return true
	}
}
