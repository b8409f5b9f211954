package release

import (
	"context"
	"errors"
	"fmt"
	"os"

	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

// ErrChanged says that SOURCE was written to while it was read. Nothing was taken in.
var ErrChanged = errors.New("SOURCE changes while it is read; publish from a directory that nobody writes to meanwhile")

// Scan reads a tree into a manifest. Content is hashed, side by side; times of files decide
// nothing. What cannot be shipped right is refused by name: sockets, fifos, devices, and what its
// owner cannot read.
func Scan(ctx context.Context, dir string) (manifest.Manifest, error) {
	root, err := openSourceDir(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	seen, err := scan(ctx, root, nil)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dir, err)
	}
	return manifestOf(seen), nil
}

// openSourceDir opens a SOURCE, through symlinks: it is the operator's word. It does not wait for
// the other end of a fifo.
func openSourceDir(dir string) (*os.File, error) {
	return os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
}

// scanned is an entry, and the marks by which a later look can tell that it changed.
type scanned struct {
	manifest.Entry
	device, inode uint64
	size          int64
	modified      unix.Timespec
	changed       unix.Timespec
	links         uint64   // names that the inode has
	leftBehind    []string // see tellLeftBehind
	settled       bool     // see known
}

func (s *scanned) same(st *unix.Stat_t) bool {
	if s.device != st.Dev || s.inode != st.Ino || s.size != st.Size || s.modified != st.Mtim {
		return false
	}
	if s.Type != 'l' && s.Mode != st.Mode&manifest.MaxMode {
		return false
	}
	// A further hard link moves ctime, too: SOURCE may be made of links to the very release that we
	// link to.
	return s.changed == st.Ctim || st.Nlink > 1
}

func manifestOf(seen []*scanned) manifest.Manifest {
	m := make(manifest.Manifest, len(seen))
	for i, s := range seen {
		m[i] = s.Entry
	}
	m.Sort()
	return m
}

// scan returns what is below root in the order of walker. What is known is not read.
func scan(ctx context.Context, root *os.File, k *known) ([]*scanned, error) {
	type job struct {
		file *os.File
		seen *scanned
	}
	var all []*scanned
	produce := func(hand func(job) error) error {
		visit := func(dir int, name, path string, st *unix.Stat_t) error {
			seen, err := sight(dir, name, path, st)
			if err != nil {
				return err
			}
			all = append(all, seen)
			if seen.Type != 'f' || k.tell(seen) {
				return nil
			}
			file, err := openFileAt(dir, name, path)
			if err != nil {
				return err
			}
			if err := hand(job{file, seen}); err != nil {
				_ = file.Close()
				return err
			}
			return nil
		}
		enter := func(fd int) (err error) { // the directory that was visited last
			all[len(all)-1].leftBehind, err = attributesLeftBehind(fd)
			return err
		}
		return walker{visit, enter}.walk(ctx, root)
	}
	err := parallel(ctx, produce, func() func(job) error {
		h := newHasher()
		return func(j job) error {
			defer func() { _ = j.file.Close() }()
			return h.read(j.file, j.seen, k)
		}
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// sight makes an entry of what lstat says; the content of a file comes later.
func sight(dir int, name, path string, st *unix.Stat_t) (*scanned, error) {
	s := &scanned{
		Entry:  manifest.Entry{Path: path, Mode: st.Mode & manifest.MaxMode},
		device: st.Dev, inode: st.Ino, size: st.Size, modified: st.Mtim, changed: st.Ctim,
		links: uint64(st.Nlink),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		s.Type = 'd'
	case unix.S_IFREG:
		s.Type = 'f'
		s.Size = st.Size
	case unix.S_IFLNK:
		s.Type, s.Mode = 'l', 0
		target := make([]byte, manifest.MaxTarget+1)
		n, err := unix.Readlinkat(dir, name, target)
		if err != nil {
			return nil, &os.PathError{Op: "readlink", Path: manifest.Quote(path), Err: err}
		}
		s.Target = string(target[:n])
	default:
		return nil, fmt.Errorf("%s is a %s: only files, directories and symlinks can be released", manifest.Quote(path), kind(st.Mode))
	}
	return s, s.Check()
}

func kind(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFREG:
		return "file"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	default:
		return "device"
	}
}

// read hashes a file that was seen, and makes sure that it is still the same one afterwards.
func (h *hasher) read(file *os.File, seen *scanned, k *known) error {
	seen.settled = k.settles(seen, file) // before it is read
	sum, size, err := h.sum(file, nil)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return &os.PathError{Op: "stat", Path: file.Name(), Err: err}
	}
	if !seen.same(&st) || size != st.Size {
		return fmt.Errorf("%w: %s", ErrChanged, file.Name())
	}
	seen.SHA256, seen.Size = sum, size
	seen.leftBehind, err = leftBehind(file, &st)
	return err
}

// unchanged looks again at all that scan saw.
func unchanged(ctx context.Context, root *os.File, seen []*scanned) error {
	i := 0
	err := walker{visit: func(_ int, _, path string, st *unix.Stat_t) error {
		if i == len(seen) || seen[i].Path != path || !seen[i].same(st) {
			return fmt.Errorf("%w: %s", ErrChanged, manifest.Quote(path))
		}
		i++
		return nil
	}}.walk(ctx, root)
	if err == nil && i != len(seen) {
		err = fmt.Errorf("%w: %s is gone", ErrChanged, manifest.Quote(seen[i].Path))
	}
	return err
}
