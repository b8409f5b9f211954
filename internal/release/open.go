package release

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
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

// openIn opens a name of the volume: it does not wait, follows no symlink anywhere on the way, and
// does not leave the volume.
func (v *Volume) openIn(name string, flags uint64, mode os.FileMode) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   flags | unix.O_NONBLOCK | unix.O_NOFOLLOW | unix.O_NOCTTY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}
	if flags&unix.O_CREAT != 0 {
		how.Mode = uint64(mode.Perm())
	}
	for {
		fd, err := unix.Openat2(int(v.dir.Fd()), name, &how)
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
func (v *Volume) openPlain(name string, limit int64) (*os.File, error) {
	return v.openRegular(name, unix.O_RDONLY, 0, limit)
}

// readPlain reads what openPlain opens; nil when there is no such file.
func (v *Volume) readPlain(name string, limit int64) ([]byte, error) {
	file, err := v.openPlain(name, limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return io.ReadAll(io.LimitReader(file, limit))
}

func (v *Volume) openRegular(name string, flags uint64, mode os.FileMode, limit int64) (*os.File, error) {
	file, err := v.openIn(name, flags, mode)
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

// Scratch returns a file on the volume that has no name any more: it goes with its last descriptor,
// at the latest with the process.
func (v *Volume) Scratch() (*os.File, error) {
	name := stateDir + "/" + rand.Text() + partialExt // a name that sweep removes, if power fails now
	file, err := v.openRegular(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600, 0)
	if err != nil {
		return nil, fmt.Errorf("make a scratch file on %s: %w", v.path, err)
	}
	if err := v.root.Remove(name); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// openDirectory opens a directory of the volume.
func (v *Volume) openDirectory(name string) (*os.File, error) {
	return v.openIn(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// readDirectory lists a directory of the volume, by name.
func (v *Volume) readDirectory(name string) ([]fs.DirEntry, error) {
	dir, err := v.openDirectory(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	entries, err := dir.ReadDir(-1)
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, err
}
