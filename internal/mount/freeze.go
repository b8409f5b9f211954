package mount

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// FIFREEZE and FITHAW of linux/fs.h: _IOWR('X', 119, int) and _IOWR('X', 120, int). x/sys does not
// name them.
const (
	fifreeze = 0xc0045877
	fithaw   = 0xc0045878
)

// Freeze stops all writes to the file system mounted at path and brings its disk into a clean state
// (FIFREEZE). Writers block until Thaw. A file system that is frozen already is an error (EBUSY):
// somebody else owns that freeze.
func Freeze(path string) error { return freezeIoctl("freeze", path, fifreeze) }

// Sync writes all that the file system mounted at path holds in memory to its disk, while writers
// go on: what is left for Freeze to write then is little.
func Sync(path string) error {
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}

// Thaw lets writes to the file system mounted at path go on (FITHAW). One that is not frozen is an
// error (EINVAL).
func Thaw(path string) error { return freezeIoctl("thaw", path, fithaw) }

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
