package release

import (
	"context"
	"fmt"
	"os"

	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

// share notes, by the index in the manifest, the ctime of a file of the base that is the tree's
// now. 0: it is none of the base's.
func (a *assembly) share(index int, changed unix.Timespec) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.shared) <= index {
		a.shared = append(a.shared, 0)
	}
	a.shared[index] = changed.Nano()
}

// settle ends the span in which ctimes are ours: see noteSpan. Who edits a file of the base while
// the tree is made, after it was looked at, would hide in it. So each file has to have the ctime
// that it had when it became the tree's; another name or name less of ours moves that, too, and
// then the content tells. An edit after this has a ctime after the span. errOrigin: something was
// edited. Its trace stays.
func (a *assembly) settle(ctx context.Context, tree *os.File) error {
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &a.settled); err != nil {
		return err
	}
	if _, err := stepAfter(a.settled); err != nil {
		return err
	}
	directories, h := &dirs{root: tree}, newHasher()
	defer directories.close()
	err := a.entries(ctx, func(w planned) error {
		if w.index >= len(a.shared) || a.shared[w.index] == 0 {
			return ctx.Err()
		}
		dir, name, err := directories.parent(w.entry.Path)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return pathError("look at", w.entry.Path, err)
		}
		if st.Ctim.Nano() == a.shared[w.index] {
			return nil
		}
		return h.holds(dir, name, w.entry)
	})
	if err != nil {
		a.hides = true
	}
	return err
}

// holds is errOrigin for a file that does not have the content that its entry says.
func (h *hasher) holds(dir int, name string, e *manifest.Entry) error {
	file, err := openFileAt(dir, name, e.Path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return pathError("look at", e.Path, err)
	}
	sum, size, err := h.sum(file, nil)
	if err == nil && (!matches(e, &st) || sum != e.SHA256 || size != e.Size || hasAttributes(file)) {
		err = fmt.Errorf("%s was edited while the release was made of it: it %w", manifest.Quote(e.Path), errOrigin)
	}
	return err
}
