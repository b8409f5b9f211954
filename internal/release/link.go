package release

import (
	"errors"
	"fmt"

	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

// link says whether the file is now the base's own. When not, a copy may do, which is compared with
// its sha256: the base's file has all the links that a file can have (ext4: 65,000), or is not what
// it should be.
func (a *assembly) link(p *place) (bool, error) {
	from, old := p.base, p.name
	path := p.step.from
	if path == p.entry.Path {
		if p.base < 0 {
			return false, nil
		}
	} else {
		var err error
		if from, old, err = a.elsewhere.parent(path); otherShape(err) {
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	// Before it gets one more name, which moves its ctime.
	var st unix.Stat_t
	if err := unix.Fstatat(from, old, &st, unix.AT_SYMLINK_NOFOLLOW); otherShape(err) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if !matches(p.entry, &st) || !untouched(p.entry, &st, a.whole) {
		return false, nil
	}
	if p.is != nil && p.is.inode != st.Ino {
		if err := p.clear(); err != nil {
			return false, err
		}
	}
	if p.step.doubted || !a.spans.has(st.Ctim) { // nor does what got another name just now: it is hashed for the next
		return a.linkLater(p, from, old, path, &st)
	}
	if p.is != nil {
		a.share(p.index, st.Ctim)
		return true, nil
	}
	err := unix.Linkat(from, old, p.dir, p.name, 0)
	if cannotLink(err) {
		return false, nil
	}
	if err == nil {
		err = unix.Fstatat(p.dir, p.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err == nil {
		a.share(p.index, st.Ctim)
	}
	return err == nil, err
}

// linkLater has a file hashed that somebody may have touched, and then linked. What has attributes
// that no manifest knows is copied instead.
func (a *assembly) linkLater(p *place, from int, old, path string, st *unix.Stat_t) (bool, error) {
	file, err := openFileAt(from, old, path)
	if otherShape(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var is unix.Stat_t
	j := job{from: file, place: *p}
	if err = unix.Fstat(int(file.Fd()), &is); err == nil && (is.Ino != st.Ino || hasAttributes(file)) {
		return false, file.Close()
	}
	if err == nil {
		j.dir, err = unix.FcntlInt(uintptr(p.dir), unix.F_DUPFD_CLOEXEC, 0) // it lasts longer than the producer's
	}
	if err != nil {
		return false, errors.Join(err, file.Close())
	}
	if err := a.hand(j); err != nil {
		j.close()
		return false, err
	}
	return true, nil
}

// linkIfRight hashes a file of the base before it gives it a name in the tree, so that one which is
// wrong keeps its ctime.
func (a *assembly) linkIfRight(h *hasher, j job) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(j.from.Fd()), &st); err != nil { // an edit while it is read is one after it
		return false, err
	}
	sum, size, err := h.sum(j.from, nil)
	if err != nil {
		return false, err
	}
	if sum != j.entry.SHA256 || size != j.entry.Size {
		return false, nil
	}
	if j.is != nil { // it has that name already
		a.share(j.index, st.Ctim)
		return true, nil
	}
	err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", j.from.Fd()), j.dir, j.name, unix.AT_SYMLINK_FOLLOW)
	if cannotLink(err) {
		return false, nil
	}
	if err == nil {
		err = unix.Fstat(int(j.from.Fd()), &st)
	}
	if err == nil {
		a.share(j.index, st.Ctim)
	}
	return err == nil, err
}

// cannotLink says that a file cannot have another name: it has as many as there can be (ext4:
// 65,000), is another user's, or no file.
func cannotLink(err error) bool {
	return otherShape(err) || errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EPERM)
}

// otherShape says that a path could not be opened because the tree is not of the shape that its
// manifest says.
func otherShape(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// matches compares what lstat can see.
func matches(e *manifest.Entry, st *unix.Stat_t) bool {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return e.Type == 'f' && st.Mode&manifest.MaxMode == e.Mode && st.Size == e.Size
	case unix.S_IFDIR:
		return e.Type == 'd' && st.Mode&manifest.MaxMode == e.Mode
	case unix.S_IFLNK:
		return e.Type == 'l'
	default:
		return false
	}
}

// untouched says that a file of a tree that was whole at some time was not written to since.
func untouched(e *manifest.Entry, st *unix.Stat_t, whole unix.Timespec) bool {
	if e.Modified != 0 {
		return st.Mtim == unix.Timespec{Sec: e.Modified}
	}
	return !isAfter(st.Mtim, whole)
}

func targetOf(dir int, name string) string {
	target := make([]byte, manifest.MaxTarget+1)
	n, err := unix.Readlinkat(dir, name, target)
	if err != nil {
		return ""
	}
	return string(target[:n])
}
