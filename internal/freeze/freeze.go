// Package freeze holds a mounted file system frozen for a moment, and never leaves it so.
//
// Freezing is the dangerous part of a snapshot: a tool that dies between FIFREEZE and FITHAW leaves
// every writer of that file system hanging for ever (ec2-consistent-snapshot #96). So the freeze is
// held by a child process that does nothing else (Guard), and that thaws on every way out: asked
// to, parent gone, a signal, the limit. The parent (Holder) watches the child in turn. Writable
// finds a freeze that something else left behind.
package freeze

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultLimit is how long a freeze may last at most. CreateSnapshot answers in well under a second
// on a good day.
const DefaultLimit = 10 * time.Second

// FIFREEZE and FITHAW of linux/fs.h: _IOWR('X', 119, int) and _IOWR('X', 120, int). x/sys does not
// name them.
const (
	fifreeze = 0xc0045877
	fithaw   = 0xc0045878
)

// ErrNotFrozen is of Thaw: there was nothing to do.
var ErrNotFrozen = errors.New("it is not frozen")

// Freeze stops all writes to the file system mounted at path and brings its disk into a clean state
// (FIFREEZE). Writers block until Thaw. A file system that is frozen already is an error (EBUSY):
// somebody else owns that freeze.
func Freeze(path string) error {
	return onDirectory("freeze", path, func(fd int) error { return unix.IoctlSetInt(fd, fifreeze, 0) })
}

// Sync writes all that the file system mounted at path holds in memory to its disk, while writers
// go on: what is left for Freeze to write then is little.
func Sync(path string) error { return onDirectory("sync", path, unix.Syncfs) }

// Thaw lets writes to the file system mounted at path go on (FITHAW). ErrNotFrozen: it was not
// frozen.
func Thaw(path string) error {
	return onDirectory("thaw", path, func(fd int) error {
		err := unix.IoctlSetInt(fd, fithaw, 0)
		if errors.Is(err, unix.EINVAL) {
			return ErrNotFrozen
		}
		return err
	})
}

func onDirectory(verb, path string, do func(fd int) error) error {
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, path, err)
	}
	defer func() { _ = dir.Close() }()
	if err := do(int(dir.Fd())); err != nil {
		return fmt.Errorf("%s %s: %w", verb, path, err)
	}
	return nil
}
