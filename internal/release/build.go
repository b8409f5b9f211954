package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	// errOrigin: a file that was to be copied is not what its manifest says.
	errOrigin = errors.New("is not what its manifest says")
	// errBase: the base release is damaged or not the one that the delta was made for.
	errBase = errors.New("base release can't be used")
)

// builder fills a partial tree. Nothing in it is ever written in place: its files may be hard links to a release that is in use.
type builder struct {
	manifest Manifest
	steps    []step
	base     *os.File // tree to link from; nil: there is none
	copies   *os.File // tree to copy from
	who      owner
	// copyAs says whether entry i is to be copied, and from which path below copies.
	copyAs func(i int) (path string, ok bool)
}

type copyJob struct {
	from, to *os.File
	entry    *Entry
}

// build makes directories (for now open to their owner only; seal gives them their modes), symlinks, links and copies in partial.
func (b *builder) build(ctx context.Context, partial *os.File) error {
	to, base, copies := &dirs{root: partial}, &dirs{root: b.base}, &dirs{root: b.copies}
	defer to.close()
	defer base.close()
	defer copies.close()
	produce := func(hand func(copyJob) error) error {
		for i := range b.manifest {
			if err := ctx.Err(); err != nil {
				return err
			}
			e := &b.manifest[i]
			fd, name, err := to.parent(e.Path)
			if err != nil {
				return err
			}
			switch {
			case e.Type == 'd':
				err = b.mkdir(fd, name)
			case e.Type == 'l':
				err = b.symlink(fd, name, e.Target)
			case b.steps[i].how == byLink:
				var linked bool
				if linked, err = b.link(base, fd, name, e, b.steps[i].from); !linked && err == nil {
					err = b.copy(copies, fd, name, i, hand)
				}
			default:
				err = b.copy(copies, fd, name, i, hand)
			}
			if err != nil {
				return pathError("make", e.Path, err)
			}
		}
		return nil
	}
	return sideBySide(ctx, produce, func() func(copyJob) error {
		h := newHasher()
		return func(j copyJob) error {
			defer func() { _ = j.from.Close() }()
			err := errors.Join(b.fill(h, j), j.to.Close())
			if err != nil {
				return pathError("write", j.entry.Path, err)
			}
			return nil
		}
	})
}

func (b *builder) mkdir(fd int, name string) error {
	if err := unix.Mkdirat(fd, name, 0o700); err != nil {
		return err
	}
	return b.own(fd, name)
}

func (b *builder) symlink(fd int, name, target string) error {
	if err := unix.Symlinkat(target, fd, name); err != nil {
		return err
	}
	return b.own(fd, name)
}

func (b *builder) own(fd int, name string) error {
	if b.who == asIs {
		return nil
	}
	return unix.Fchownat(fd, name, b.who.uid, b.who.gid, unix.AT_SYMLINK_NOFOLLOW)
}

// link says whether the file could be linked; when not, a copy may do: the base's file has all the links that a file can have (ext4:
// 65,000), or is not what it should be.
func (b *builder) link(base *dirs, fd int, name string, e *Entry, from string) (bool, error) {
	dir, old, err := base.parent(from)
	var st unix.Stat_t
	if err == nil {
		err = unix.Fstatat(dir, old, &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	if otherShape(err) || err == nil && !e.matches(&st) {
		return false, nil
	}
	if err == nil {
		err = unix.Linkat(dir, old, fd, name, 0)
	}
	if errors.Is(err, unix.EMLINK) {
		return false, nil
	}
	return err == nil, err
}

// otherShape says that a path could not be opened because the tree is not of the shape that its manifest says.
func otherShape(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// matches compares what lstat can see.
func (e *Entry) matches(st *unix.Stat_t) bool {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return e.Type == 'f' && st.Mode&maxMode == e.Mode && st.Size == e.Size
	case unix.S_IFDIR:
		return e.Type == 'd' && st.Mode&maxMode == e.Mode
	case unix.S_IFLNK:
		return e.Type == 'l'
	default:
		return false
	}
}

func (b *builder) copy(copies *dirs, fd int, name string, i int, hand func(copyJob) error) error {
	path, ok := b.copyAs(i)
	if !ok {
		return nil
	}
	from, err := copies.openFile(path)
	if otherShape(err) {
		return fmt.Errorf("%w: %w", errOrigin, err)
	}
	if err != nil {
		return err
	}
	to, err := unix.Openat(fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		_ = from.Close()
		return err
	}
	job := copyJob{from, os.NewFile(uintptr(to), quote(name)), &b.manifest[i]}
	if err := hand(job); err != nil {
		_, _ = from.Close(), job.to.Close()
		return err
	}
	return nil
}

// fill copies a file, hashes what it copies, and wants that to be what the manifest says.
func (b *builder) fill(h *hasher, j copyJob) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(j.from.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errOrigin
	}
	sum, size, err := h.sum(j.from, j.to)
	if err != nil {
		return err
	}
	if sum != j.entry.SHA256 || size != j.entry.Size {
		return errOrigin
	}
	fd := int(j.to.Fd())
	if b.who != asIs {
		if err := unix.Fchown(fd, b.who.uid, b.who.gid); err != nil {
			return err
		}
	}
	// After chown, which takes set-id bits away.
	if err := unix.Fchmod(fd, j.entry.Mode); err != nil {
		return err
	}
	// For what caches by time; nothing here decides by it.
	times := []unix.Timeval{unix.NsecToTimeval(st.Atim.Nano()), unix.NsecToTimeval(st.Mtim.Nano())}
	return unix.Futimes(fd, times)
}

func pathError(op, path string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	// An error that has a path already says enough.
	if _, ok := errors.AsType[*os.PathError](err); ok {
		return err
	}
	return fmt.Errorf("%s %s: %w", op, quote(path), err)
}

// room makes a full disk known before anything is written. What it can't foresee the kernel says later.
func (t Tree) room(need int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(t.Root, &st); err != nil {
		return fmt.Errorf("free space on %s: %w", t.Root, err)
	}
	free := int64(st.Bavail) * st.Bsize //nolint:unconvert // the type differs between architectures
	if need > free {
		return fmt.Errorf("%s has %s free, the release needs %s more: %w", t.Root, mebibytes(free), mebibytes(need), unix.ENOSPC)
	}
	return nil
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// startPartial makes an empty partial tree. What a crash left of any earlier one goes: there is one publish at a time.
func (t Tree) startPartial(root *os.Root, id string, who owner) (*os.File, error) {
	if err := t.sweep(root); err != nil {
		return nil, err
	}
	name := releasesDir + "/" + id + partialExt
	if err := root.Mkdir(name, 0o755); err != nil {
		return nil, err
	}
	// Whatever the umask is: the root is not in the manifest.
	if err := root.Chmod(name, 0o755); err != nil {
		return nil, err
	}
	if who != asIs {
		if err := root.Lchown(name, who.uid, who.gid); err != nil {
			return nil, err
		}
	}
	return root.Open(name)
}

// sweep removes what is not whole: partial trees, what Stage left for Finish, temporary files.
func (t Tree) sweep(root *os.Root) error {
	for _, dir := range []string{releasesDir, stateDir} {
		entries, err := fs.ReadDir(root.FS(), dir)
		if err != nil {
			return fmt.Errorf("release volume %s: %w", t.Root, err)
		}
		for _, e := range entries {
			name := e.Name()
			if !strings.HasSuffix(name, partialExt) && !strings.HasSuffix(name, stagedExt) && !strings.HasPrefix(name, ".") {
				continue
			}
			if err := removeTree(root, dir+"/"+name); err != nil {
				return fmt.Errorf("remove leftover %s/%s/%s: %w", t.Root, dir, name, err)
			}
		}
	}
	return nil
}

// removeTree removes a tree, also below directories that their owner may not write to.
func removeTree(root *os.Root, name string) error {
	err := root.RemoveAll(name)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	err = walker{
		visit: func(fd int, name, path string, st *unix.Stat_t) error {
			if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Mode&0o700 == 0o700 {
				return nil
			}
			// Before the walk opens it. fchmodat would follow a symlink, but only the owner could put one here, and against itself.
			return unix.Fchmodat(fd, name, 0o700, 0)
		},
	}.walk(context.Background(), dir)
	if err != nil {
		return err
	}
	return root.RemoveAll(name)
}
