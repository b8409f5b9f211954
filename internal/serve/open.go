package serve

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const packsDir = "packs"

// errNotOurs says that something lies there which the publisher did not write.
var errNotOurs = errors.New("it is no regular file")

// open opens a regular file in dir, or in a directory below it; "": none. No symbolic link is
// followed, not even one that stays inside: the history lies there, too. dir itself may be one. It
// is looked up each time: a store that was restored is another directory of the same name.
func open(dir, below, name string) (*os.File, os.FileInfo, error) {
	at := unix.AT_FDCWD
	path := filepath.Join(dir, name)
	if below != "" {
		inner, err := unix.Open(filepath.Join(dir, below), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, nil, refused(dir, err)
		}
		defer func() { _ = unix.Close(inner) }()
		at, path = inner, name
	}
	// O_NONBLOCK: a FIFO would wait for its writer.
	fd, err := unix.Openat(at, path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, refused(dir, err)
	}
	file := os.NewFile(uintptr(fd), name)
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w (%s)", errNotOurs, info.Mode())
	}
	if err != nil {
		_ = file.Close()
		return nil, nil, err
	}
	return file, info, nil
}

// refused finds what O_NOFOLLOW and O_DIRECTORY refuse, and sockets: open(2), ELOOP, ENOTDIR,
// ENXIO. A file is missing only where its directory is there: a store that is not mounted is a
// fault.
func refused(dir string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		if _, gone := os.Stat(dir); gone != nil {
			return fmt.Errorf("the directory of the store: %v", gone) // not wrapped: this says nothing of the file
		}
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%w: %w", errNotOurs, err)
	}
	return err
}
