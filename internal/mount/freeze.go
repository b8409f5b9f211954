package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FIFREEZE and FITHAW of linux/fs.h: _IOWR('X', 119, int) and _IOWR('X', 120, int). x/sys does not name them.
const (
	fifreeze = 0xc0045877
	fithaw   = 0xc0045878
)

// Freeze stops all writes to the file system mounted at path and brings its disk into a clean state (FIFREEZE).
// Writers block until Thaw. A file system that is frozen already is an error (EBUSY): somebody else owns that freeze.
func Freeze(path string) error { return freezeIoctl("freeze", path, fifreeze) }

// Thaw lets writes to the file system mounted at path go on (FITHAW). One that is not frozen is an error (EINVAL).
func Thaw(path string) error { return freezeIoctl("thaw", path, fithaw) }

// TryWrite waits until writes to the file system at path are let through, and writes nothing: unlink(2) asks for the right to write before it looks the name
// up, and the name is none. While the file system is frozen the calling thread can't be killed, so that it is for a process of its own.
func TryWrite(path string) error {
	err := unix.Unlink(filepath.Join(path, fmt.Sprintf(".ebs-release-none-%d", os.Getpid())))
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("write to %s: %w", path, err)
	}
	return nil
}

func freezeIoctl(verb, path string, request uint) error {
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, path, err)
	}
	defer dir.Close()
	if err := unix.IoctlSetInt(int(dir.Fd()), request, 0); err != nil {
		return fmt.Errorf("%s %s: %w", verb, path, err)
	}
	return nil
}
