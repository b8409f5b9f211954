package release

import (
	"fmt"
	"os"

	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

func (a *assembly) copy(p place) error {
	path, ok := a.copyAs(p.planned)
	if !ok {
		return nil
	}
	from, err := a.original.openFile(path)
	if otherShape(err) {
		return fmt.Errorf("%w: %w", errOrigin, err)
	}
	if err != nil {
		return err
	}
	to, err := create(p.dir, p.name)
	if err != nil {
		_ = from.Close()
		return err
	}
	if err := a.hand(job{from, to, p}); err != nil {
		_, _ = from.Close(), to.Close()
		return err
	}
	return nil
}

// fill copies a file, hashes what it copies, and wants that to be what the manifest says.
func (a *assembly) fill(h *hasher, j job) error {
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
	return a.complete(j.to, j.entry, st.Mtim)
}

// complete gives a file that was written what the manifest says.
func (a *assembly) complete(file *os.File, e *manifest.Entry, modified unix.Timespec) error {
	return finishFile(file, e, a.who, a.began, modified)
}

// finishFile gives a file that was written its owner, mode and time. A file that is written to in
// place, even while the rest of its tree is still on the way, is told by its time: it is that of
// the manifest, or, where that has none, not later than the tree was begun.
func finishFile(file *os.File, e *manifest.Entry, who owner, began, modified unix.Timespec) error {
	fd := int(file.Fd())
	if who != asIs {
		if err := unix.Fchown(fd, who.uid, who.gid); err != nil {
			return err
		}
	}
	// After chown, which takes set-id bits away.
	if err := unix.Fchmod(fd, e.Mode); err != nil {
		return err
	}
	switch {
	case e.Modified != 0:
		modified = unix.Timespec{Sec: e.Modified}
	case isAfter(modified, began):
		modified = began
	}
	tv := unix.NsecToTimeval(modified.Nano())
	return unix.Futimes(fd, []unix.Timeval{tv, tv})
}

// create makes a file that nobody else has a name for.
func create(dir int, name string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), manifest.Quote(name)), nil
}
