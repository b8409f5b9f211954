package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"ebs-release/internal/advice"

	"golang.org/x/sys/unix"
)

// FIFREEZE and FITHAW of linux/fs.h, which x/sys does not name.
const (
	fiFreeze = 0xC0045877
	fiThaw   = 0xC0045878
)

// freeze is one of a store. A child holds it and thaws when its input ends: it outlives a test that
// is killed, after which nobody else could.
type freeze struct {
	guard *exec.Cmd
	hold  io.Closer
}

// Freeze lets no write to any disk come to an end, until Thaw: whoever waits for one waits in the
// kernel, and not even SIGKILL ends that. So does a call of the store that changes something. Only
// a store on a file system of its own can do that.
func (s *Store) Freeze() error {
	s.freezing.Lock()
	defer s.freezing.Unlock()
	switch {
	case s.image == nil:
		return advice.Try(errors.New("freeze the disks: they are files in a directory of this machine"), "install mkfs.xfs")
	case s.frozen != nil:
		return nil
	}
	root, err := os.Open(s.image.path()) // what holds a mount takes no ioctl
	if err != nil {
		return fmt.Errorf("freeze the disks: %w", err)
	}
	defer root.Close()
	f := &freeze{guard: exec.Command("sh", "-c", "cat; exec fsfreeze --unfreeze /proc/self/fd/3")}
	f.guard.ExtraFiles = []*os.File{root}
	f.guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is not for it
	if f.hold, err = f.guard.StdinPipe(); err != nil {
		return fmt.Errorf("freeze the disks: %w", err)
	}
	if err := f.guard.Start(); err != nil {
		return fmt.Errorf("freeze the disks: %w", err)
	}
	if err := unix.IoctlSetInt(int(root.Fd()), fiFreeze, 0); err != nil {
		_ = f.thaw() // there is nothing to thaw, which is an error
		return fmt.Errorf("freeze the disks: %w", err)
	}
	s.frozen = f
	return nil
}

// Thaw ends a Freeze, if there is one.
func (s *Store) Thaw() error {
	s.freezing.Lock()
	defer s.freezing.Unlock()
	if s.frozen == nil {
		return nil
	}
	f := s.frozen
	s.frozen = nil
	return f.thaw()
}

func (f *freeze) thaw() error {
	_ = f.hold.Close()
	if err := f.guard.Wait(); err != nil {
		return fmt.Errorf("thaw the disks: fsfreeze --unfreeze: %w", err)
	}
	return nil
}
