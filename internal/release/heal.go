package release

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"ebs-release/internal/manifest"
	"ebs-release/internal/words"

	"golang.org/x/sys/unix"
)

// Healing collects what some damaged files should hold, and then puts it in their place: in each
// tree that shares the damaged file, in one step, and never into the file itself.
type Healing struct {
	volume *Volume
	who    owner
	hash   *hasher
	wanted map[[sha256.Size]byte]*remedy
}

// remedy is a content, and the damaged files that should have it, by inode.
type remedy struct {
	damaged map[uint64]*damagedFile
	size    int64
}

type damagedFile struct {
	Damage

	good            *os.File // nil: not found yet
	names, replaced uint64
}

// NewHealing begins. What cannot be healed is left out.
func (v *Volume) NewHealing(bad []Damage) (*Healing, error) {
	who, err := v.owner()
	if err != nil {
		return nil, err
	}
	h := &Healing{v, who, newHasher(), map[[sha256.Size]byte]*remedy{}}
	for _, d := range bad {
		if !d.CanHeal() {
			continue
		}
		r := h.wanted[d.Entry.SHA256]
		if r == nil {
			r = &remedy{map[uint64]*damagedFile{}, d.Entry.Size}
			h.wanted[d.Entry.SHA256] = r
		}
		r.damaged[d.inode] = &damagedFile{Damage: d}
	}
	return h, nil
}

// Wants says whether the content of an entry is missing.
func (h *Healing) Wants(e *manifest.Entry) bool {
	r := h.wanted[e.SHA256]
	return r != nil && r.size == e.Size && r.missing()
}

// Missing is how many contents were not found.
func (h *Healing) Missing() (n int) {
	for _, r := range h.wanted {
		if r.missing() {
			n++
		}
	}
	return n
}

func (r *remedy) missing() bool {
	for _, d := range r.damaged {
		if d.good == nil {
			return true
		}
	}
	return false
}

// Take reads a content that is wanted, writes it to the volume, and compares it with its sha256.
func (h *Healing) Take(ctx context.Context, e *manifest.Entry, from io.Reader) error {
	first := (*os.File)(nil)
	for _, d := range h.wanted[e.SHA256].damaged {
		if first != nil { // of one content there are several files: of other modes, or with all links that a file can have
			if _, err := first.Seek(0, io.SeekStart); err != nil {
				return err
			}
			from = first
		}
		made, err := h.make(ctx, d, from)
		if err != nil {
			return fmt.Errorf("heal %s: %w", manifest.Quote(d.Path), err)
		}
		d.good, first = made, made
	}
	return nil
}

// make writes a file without a name, as sweep would take away one that has a name.
func (h *Healing) make(ctx context.Context, d *damagedFile, from io.Reader) (*os.File, error) {
	file, err := h.volume.openIn(stateDir, unix.O_TMPFILE|unix.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	sum, size, err := h.hash.sum(io.LimitReader(readerFunc(func(into []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return from.Read(into)
	}), d.Entry.Size), file)
	if err == nil && (sum != d.Entry.SHA256 || size != d.Entry.Size) {
		err = errOther
	}
	if err == nil {
		err = finishFile(file, &d.Entry, h.who, d.modified, d.modified)
	}
	if err == nil {
		err = file.Sync() // before it has a name that is read
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// healName is what a good file is called for the moment between its link and its rename. Sweep
// removes it.
const healName = stateDir + "/.heal"

// Replace puts what was found in the place of what is damaged, in all releases of the volume. It
// returns how many files that were.
func (h *Healing) Replace(ctx context.Context) (healed int, err error) {
	v := h.volume
	err = v.locked(ctx, func() error {
		began, err := justNow()
		if err != nil {
			return err
		}
		ids, err := v.Releases()
		if err != nil {
			return err
		}
		for _, id := range ids {
			if err := h.replaceIn(ctx, id); err != nil {
				return fmt.Errorf("release %s: %w", id, err)
			}
		}
		gone := true
		for _, r := range h.wanted {
			for _, d := range r.damaged {
				if d.replaced > 0 {
					healed++
				}
				gone = gone && d.replaced == d.names
			}
		}
		if err := v.syncAll(); err != nil || !gone {
			return err // a damaged file that stays somewhere has a ctime in this span
		}
		return v.noteSpan(began)
	})
	if err != nil {
		return healed, fmt.Errorf("heal %s: %w", v.path, err)
	}
	return healed, nil
}

func (h *Healing) replaceIn(ctx context.Context, id string) error {
	file, err := h.volume.openManifest(id)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	tree, err := h.volume.openDirectory(releasesDir + "/" + id)
	if err != nil {
		return err
	}
	defer func() { _ = tree.Close() }()
	directories := &dirs{root: tree}
	defer directories.close()
	return eachEntry(file, func(e manifest.Entry) error {
		r := h.wanted[e.SHA256]
		if e.Type != 'f' || r == nil {
			return ctx.Err()
		}
		dir, name, err := directories.parent(e.Path)
		var st unix.Stat_t
		if err == nil {
			err = unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		}
		if otherShape(err) {
			return nil
		}
		d := r.damaged[st.Ino]
		if err != nil || d == nil || d.good == nil || !matches(&d.Entry, &st) || !matches(&e, &st) {
			return err
		}
		if d.names == 0 {
			d.names = uint64(st.Nlink) // the type differs between architectures
		}
		if err := h.place(d.good, dir, name); err != nil {
			return fmt.Errorf("%s: %w", manifest.Quote(e.Path), err)
		}
		d.replaced++
		return nil
	})
}

// place gives a good file the name of a damaged one, in one step.
func (h *Healing) place(good *os.File, dir int, name string) error {
	if err := h.volume.removeTree(healName); err != nil {
		return err
	}
	root := int(h.volume.dir.Fd())
	if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", good.Fd()), root, healName, unix.AT_SYMLINK_FOLLOW); err != nil {
		return err
	}
	return unix.Renameat(root, healName, dir, name)
}

// Close lets go of what was found.
func (h *Healing) Close() {
	for _, r := range h.wanted {
		for _, d := range r.damaged {
			if d.good != nil {
				_ = d.good.Close()
			}
		}
	}
}

// HasRoom is an error where the volume has no room for as many bytes. Nothing goes for them.
func (v *Volume) HasRoom(need int64) error {
	free, err := v.free()
	if err == nil && need > free {
		err = fmt.Errorf("%s has %s free, and %s are needed: %w", v.path, words.Bytes(free), words.Bytes(need), unix.ENOSPC)
	}
	return err
}
