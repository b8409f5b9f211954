package release

import (
	"context"
	"fmt"
	"os"
	"strings"

	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

// dirs opens the directories of one tree, each below its parent and never through a symlink, so
// that no path gets out of the tree. It keeps those on the way to the last path open: in sorted
// order nearly each next path needs no further open. Not for two goroutines.
type dirs struct {
	root *os.File // belongs to the caller
	open []opened
}

type opened struct {
	path string
	fd   int
}

const openDir = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// parent returns the open parent directory of path, and the name of path in it. The descriptor is
// good until the next call.
func (d *dirs) parent(path string) (fd int, name string, err error) {
	directory, name := manifest.Split(path)
	fd, err = d.directory(directory)
	return fd, name, err
}

// directory returns an open directory, "" for the root. The descriptor is good until the next call.
func (d *dirs) directory(directory string) (fd int, err error) {
	for n := len(d.open); n > 0; n-- {
		if top := d.open[n-1].path; directory == top || strings.HasPrefix(directory, top) && directory[len(top)] == '/' {
			break
		}
		_ = unix.Close(d.open[n-1].fd)
		d.open = d.open[:n-1]
	}
	fd, have := int(d.root.Fd()), ""
	if n := len(d.open); n > 0 {
		fd, have = d.open[n-1].fd, d.open[n-1].path
	}
	for have != directory {
		rest := strings.TrimPrefix(directory[len(have):], "/")
		next, _, _ := strings.Cut(rest, "/")
		below, err := unix.Openat(fd, next, openDir, 0)
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: manifest.Quote(strings.TrimPrefix(have+"/"+next, "/")), Err: err}
		}
		have = strings.TrimPrefix(have+"/"+next, "/")
		fd = below
		d.open = append(d.open, opened{have, fd})
	}
	return fd, nil
}

func (d *dirs) close() {
	for _, o := range d.open {
		_ = unix.Close(o.fd)
	}
	d.open = nil
}

// openFile opens a regular file for reading.
func (d *dirs) openFile(path string) (*os.File, error) {
	fd, name, err := d.parent(path)
	if err != nil {
		return nil, err
	}
	return openFileAt(fd, name, path)
}

// openFileAt does not wait for the other end of a fifo that took a file's place (O_NONBLOCK means
// nothing to a file).
func openFileAt(fd int, name, path string) (*os.File, error) {
	file, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: manifest.Quote(path), Err: err}
	}
	return os.NewFile(uintptr(file), manifest.Quote(path)), nil
}

// walker visits everything below a directory in a fixed order, a directory before what is in it.
// Symlinks are visited, never followed.
type walker struct {
	visit func(dir int, name, path string, st *unix.Stat_t) error
	// enter is told of each directory after its visit, when it is open; it may be nil.
	enter func(fd int) error
}

func (w walker) walk(ctx context.Context, root *os.File) error {
	return w.directory(ctx, int(root.Fd()), "")
}

func (w walker) directory(ctx context.Context, dir int, path string) error {
	names, err := new(lister).list(dir)
	if err != nil {
		return &os.PathError{Op: "read directory", Path: manifest.Quote(path + "/"), Err: err}
	}
	for _, n := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		below := n.name
		if path != "" {
			below = path + "/" + n.name
		}
		// Before it is opened: a tree of endless depth must end somewhere.
		if len(below) > manifest.MaxPath {
			return fmt.Errorf("%s…: a path of more than %d bytes", manifest.Quote(below[:60]), manifest.MaxPath)
		}
		var st unix.Stat_t
		if err := unix.Fstatat(dir, n.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &os.PathError{Op: "lstat", Path: manifest.Quote(below), Err: err}
		}
		if err := w.visit(dir, n.name, below, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		if err := w.below(ctx, dir, n.name, below); err != nil {
			return err
		}
	}
	return nil
}

func (w walker) below(ctx context.Context, dir int, name, path string) error {
	fd, err := unix.Openat(dir, name, openDir, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: manifest.Quote(path), Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	if w.enter != nil {
		if err := w.enter(fd); err != nil {
			return &os.PathError{Op: "read", Path: manifest.Quote(path), Err: err}
		}
	}
	return w.directory(ctx, fd, path)
}
