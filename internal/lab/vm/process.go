package vm

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"ebs-release/internal/lab/netns"
)

// process is a running program which dies with this one, however this one ends.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // of its end; valid once done is closed
}

// start starts cmd in the network namespace ns, nil for the caller's own. The death signal that the
// kernel sends to a child (PR_SET_PDEATHSIG) comes when the thread that started it ends, so that a
// goroutine of its own holds this thread until the child is gone.
func start(cmd *exec.Cmd, ns *os.File) (*process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	p := &process{cmd: cmd, done: make(chan struct{})}
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
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// kill ends the process at once and waits for its end.
func (p *process) kill() {
	p.cmd.Process.Kill() // gone already: fine
	<-p.done
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}
