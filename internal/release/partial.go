package release

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

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
	return openFolder(root, name)
}

// sweep removes what is not whole: partial trees, temporary files.
func (t Tree) sweep(root *os.Root) error {
	for _, dir := range []string{releasesDir, stateDir} {
		entries, err := fs.ReadDir(root.FS(), dir)
		if err != nil {
			return fmt.Errorf("release volume %s: %w", t.Root, err)
		}
		for _, e := range entries {
			name := e.Name()
			if !strings.HasSuffix(name, partialExt) && !strings.HasPrefix(name, ".") {
				continue
			}
			if err := removeTree(root, dir+"/"+name); err != nil {
				return fmt.Errorf("remove leftover %s/%s/%s: %w", t.Root, dir, name, err)
			}
		}
	}
	return nil
}

// removeTree removes a file or tree of the volume, also below directories that their owner may not write to.
func removeTree(root *os.Root, name string) error {
	dir, err := root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	if err := removeAt(int(dir.Fd()), path.Base(name)); err != nil {
		return &os.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

// removeAt removes a name in a directory, and what is below it. A symlink is removed, not followed; what is not there is fine.
func removeAt(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) {
		return err
	}
	fd, err := unix.Openat(dir, name, openDir, 0)
	if errors.Is(err, unix.EACCES) { // a mode of 0, for example
		if err := unix.Fchmodat(dir, name, 0o700, 0); err != nil {
			return err
		}
		fd, err = unix.Openat(dir, name, openDir, 0)
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := empty(fd); err != nil {
		return err
	}
	return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
}

// empty removes all that is in a directory.
func empty(dir int) error {
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return err
	}
	if st.Mode&0o700 != 0o700 {
		if err := unix.Fchmod(dir, 0o700); err != nil {
			return err
		}
	}
	names, err := new(lister).list(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := removeAt(dir, n.name); err != nil {
			return fmt.Errorf("%s: %w", quote(n.name), err)
		}
	}
	return nil
}
