package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// boot is one run of a host, from power on to power off.
type boot struct {
	process *exec.Cmd
	ended   chan struct{} // closed when every process of it is gone
	decided chan struct{} // closed when the boot is through, or failed, or ended before that
	mu      sync.Mutex
	err     error    // why it is not through; valid once decided
	notices []string // what its services told their manager
}

func (h *Host) start(o order) (*boot, error) {
	spec, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = initArgs
	cmd.Env = []string{} // no variable of the lab's own environment reaches a host
	cmd.Stdin = bytes.NewReader(spec)
	cmd.Stdout, cmd.Stderr = h.console, h.console
	cmd.ExtraFiles = []*os.File{writer}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true, // Ctrl-C is for the lab, which then takes its hosts down
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	err = h.network.start(cmd, h.namespace)
	writer.Close()
	if err != nil {
		reader.Close()
		return nil, err
	}
	b := &boot{process: cmd, ended: make(chan struct{}), decided: make(chan struct{})}
	go b.follow(reader)
	return b, nil
}

// follow reads what the first process tells until it is gone, and with it all processes of its PID
// namespace.
func (b *boot) follow(events io.ReadCloser) {
	defer events.Close()
	lines := json.NewDecoder(events)
	decided := false
	for {
		var e event
		if err := lines.Decode(&e); err != nil {
			break
		}
		if e.Notify != "" {
			b.mu.Lock()
			b.notices = append(b.notices, e.Notify)
			b.mu.Unlock()
		}
		if (e.Booted || e.Failed != "") && !decided {
			if decided = true; e.Failed != "" {
				b.err = errors.New(e.Failed)
			}
			close(b.decided)
		}
	}
	err := b.process.Wait()
	if !decided {
		b.err = fmt.Errorf("it went off during its boot (%v)", err)
		close(b.decided)
	}
	close(b.ended)
}

// Booted waits until the boot that is going on is through. Its error says what failed; see the
// console for more.
func (h *Host) Booted(ctx context.Context) error {
	b := h.boot()
	if b == nil {
		return fmt.Errorf("boot of %s: %w", h.ID, errOff)
	}
	select {
	case <-b.decided:
	case <-ctx.Done():
		return fmt.Errorf("boot of %s is not through: %w", h.ID, context.Cause(ctx))
	}
	if b.err != nil {
		return fmt.Errorf("boot of %s: %w", h.ID, b.err)
	}
	return nil
}

// Notices are the messages that services of the boot that is going on, those with Notify, sent to
// their manager (sd_notify), one string each: READY=1.
func (h *Host) Notices() []string {
	b := h.boot()
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string{}, b.notices...)
}
