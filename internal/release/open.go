package release

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A volume may come from anywhere, and whoever owns the tree may be less than who reads it. What
// stands under a name may be a fifo, which would hold a reader until somebody writes into it, a
// device, or a symlink that leads elsewhere. So everything that is opened by a name of ours goes
// through openIn; what is below a release's own directory, through dirs and walker, which keep the
// same rules one name at a time.

// openIn opens a name below root: it does not wait, follows no symlink anywhere on the way, and
// does not leave root.
func openIn(root *os.Root, name string, flags uint64, mode os.FileMode) (*os.File, error) {
	top, err := root.Open(".") // os.Root does not give its descriptor, and follows symlinks within the root
	if err != nil {
		return nil, err
	}
	defer func() { _ = top.Close() }()
	how := unix.OpenHow{
		Flags:   flags | unix.O_NONBLOCK | unix.O_NOFOLLOW | unix.O_NOCTTY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}
	if flags&unix.O_CREAT != 0 {
		how.Mode = uint64(mode.Perm())
	}
	for {
		fd, err := unix.Openat2(int(top.Fd()), name, &how)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOSYS):
			err = fmt.Errorf("openat2(2) needs Linux 5.6 or later: %w", err)
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

// openPlain opens a regular file of ours, of at most limit bytes.
func openPlain(root *os.Root, name string, limit int64) (*os.File, error) {
	return openRegular(root, name, unix.O_RDONLY, 0, limit)
}

func openRegular(root *os.Root, name string, flags uint64, mode os.FileMode, limit int64) (*os.File, error) {
	file, err := openIn(root, name, flags, mode)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s is no regular file (%s)", name, info.Mode())
	case info.Size() > limit:
		err = fmt.Errorf("%s has %d bytes, want at most %d", name, info.Size(), limit)
	default:
		return file, nil
	}
	return nil, errors.Join(err, file.Close())
}

// openFolder opens a directory of the volume.
func openFolder(root *os.Root, name string) (*os.File, error) {
	return openIn(root, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// readFolder lists a directory of the volume, by name.
func readFolder(root *os.Root, name string) ([]fs.DirEntry, error) {
	dir, err := openFolder(root, name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	entries, err := dir.ReadDir(-1)
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, err
}
