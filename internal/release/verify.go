package release

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Verify reads every file of a release and compares all of the tree with its manifest.
func (t Tree) Verify(ctx context.Context, id string) error {
	root, err := t.open()
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	m, err := t.manifest(root, id)
	if err != nil {
		return err
	}
	dir, err := root.Open(releasesDir + "/" + id)
	if err != nil {
		return fmt.Errorf("release %s: %w", id, err)
	}
	defer func() { _ = dir.Close() }()
	if err := (&inspection{manifest: m}).run(ctx, dir); err != nil {
		return fmt.Errorf("release %s is not what its manifest says: %w", id, err)
	}
	return nil
}

// inspection compares a tree with its manifest: that each entry is there, with its type, mode, size, target, and that nothing else is.
type inspection struct {
	manifest Manifest
	// held, if any, says whether a file needs no reading: it is the very file that another release has.
	held func(i int, st *unix.Stat_t) bool
	// unshared: a file that has to be read must have one name only. Else it was written in place, through a hard link.
	unshared bool
	// seal: directories get their modes, instead of being compared with them.
	seal bool
}

func (in *inspection) run(ctx context.Context, root *os.File) error {
	type job struct {
		file  *os.File
		entry *Entry
	}
	index := make(map[string]int, len(in.manifest))
	for i := range in.manifest {
		index[in.manifest[i].Path] = i
	}
	found := make([]bool, len(in.manifest))
	produce := func(hand func(job) error) error {
		return walker{
			visit: func(dir int, name, path string, st *unix.Stat_t) error {
				i, ok := index[path]
				if !ok {
					return fmt.Errorf("%s does not belong there", quote(path))
				}
				found[i] = true
				e := &in.manifest[i]
				if err := in.compare(dir, name, e, st); err != nil {
					return err
				}
				if e.Type != 'f' || in.held != nil && in.held(i, st) {
					return nil
				}
				if in.unshared && st.Nlink != 1 {
					return fmt.Errorf("%s was written in place, over a file that another release shares", quote(path))
				}
				file, err := openFileAt(dir, name, path)
				if err != nil {
					return err
				}
				if err := hand(job{file, e}); err != nil {
					_ = file.Close()
					return err
				}
				return nil
			},
			leave: func(dir int, path string, st *unix.Stat_t) error {
				e := &in.manifest[index[path]]
				if !in.seal || st.Mode&maxMode == e.Mode {
					return nil
				}
				if err := unix.Fchmod(dir, e.Mode); err != nil {
					return pathError("chmod", path, err)
				}
				return nil
			},
		}.walk(ctx, root)
	}
	err := sideBySide(ctx, produce, func() func(job) error {
		h := newHasher()
		return func(j job) error {
			defer func() { _ = j.file.Close() }()
			sum, size, err := h.sum(j.file, nil)
			if err != nil {
				return err
			}
			if !j.entry.sameContent(sum[:], size) {
				return fmt.Errorf("%s: its content has another sha256", quote(j.entry.Path))
			}
			return nil
		}
	})
	if err != nil {
		return err
	}
	for i := range found {
		if !found[i] {
			return fmt.Errorf("%s is missing", quote(in.manifest[i].Path))
		}
	}
	return nil
}

func (in *inspection) compare(dir int, name string, e *Entry, st *unix.Stat_t) error {
	if e.Type == 'd' && in.seal && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	if !e.matches(st) {
		return fmt.Errorf("%s: a %s of mode %04o and %d bytes, want %s", quote(e.Path), kind(st.Mode), st.Mode&maxMode, st.Size, e.describe())
	}
	if e.Type != 'l' {
		return nil
	}
	target := make([]byte, maxTarget+1)
	n, err := unix.Readlinkat(dir, name, target)
	if err != nil {
		return pathError("readlink", e.Path, err)
	}
	if string(target[:n]) != e.Target {
		return fmt.Errorf("%s: a symlink to %q, want %q", quote(e.Path), target[:n], e.Target)
	}
	return nil
}

func (e *Entry) describe() string {
	switch e.Type {
	case 'f':
		return fmt.Sprintf("a file of mode %04o and %d bytes", e.Mode, e.Size)
	case 'd':
		return fmt.Sprintf("a directory of mode %04o", e.Mode)
	default:
		return "a symlink"
	}
}

// publish gives a partial tree that is complete its name: manifest first, so that a release which is there has one; then everything to
// disk; then the rename.
func (t Tree) publish(root *os.Root, id string, m Manifest) error {
	if err := t.replaceFile(root, id+manifestExt, m.Encode); err != nil {
		return err
	}
	if err := t.syncAll(root); err != nil {
		return err
	}
	name := releasesDir + "/" + id
	if err := root.Rename(name+partialExt, name); err != nil {
		return fmt.Errorf("release %s: %w", id, err)
	}
	return errors.Join(t.syncDir(root, releasesDir), t.syncDir(root, stateDir))
}
