package release

import (
	"context"
	"fmt"
	"os"

	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

// Verify reads every file of a release and compares all of the tree with its manifest.
func (v *Volume) Verify(ctx context.Context, id string) error {
	t, err := v.openTree(id)
	if err != nil {
		return err
	}
	defer t.close()
	if err := inspect(ctx, t.dir, t.manifest, nil); err != nil {
		return fmt.Errorf("release %s is not what its manifest says: %w", id, err)
	}
	return nil
}

// inspect compares a tree with its manifest: that each entry is there, with its type, mode, size,
// content and target, and that nothing else is. Files that are believed are not read; nil: all are.
func inspect(ctx context.Context, root *os.File, want manifest.Manifest, believed func(*manifest.Entry, *unix.Stat_t) bool) error {
	type job struct {
		file  *os.File
		entry *manifest.Entry
	}
	produce := func(hand func(job) error) error {
		return look(ctx, root, want, func(dir int, name string, e *manifest.Entry, st *unix.Stat_t) error {
			if believed != nil && believed(e, st) {
				return nil
			}
			if believed != nil && e.Modified != 0 && !untouched(e, st, unix.Timespec{}) {
				return fmt.Errorf("%s: it was given another mtime", manifest.Quote(e.Path))
			}
			file, err := openFileAt(dir, name, e.Path)
			if err != nil {
				return err
			}
			if err := hand(job{file, e}); err != nil {
				_ = file.Close()
				return err
			}
			return nil
		})
	}
	return parallel(ctx, produce, func() func(job) error {
		h := newHasher()
		return func(j job) error {
			defer func() { _ = j.file.Close() }()
			sum, size, err := h.sum(j.file, nil)
			if err != nil {
				return err
			}
			if sum != j.entry.SHA256 || size != j.entry.Size {
				return fmt.Errorf("%s: its content has another sha256", manifest.Quote(j.entry.Path))
			}
			if believed != nil && hasAttributes(j.file) {
				return fmt.Errorf("%s: it was given extended attributes", manifest.Quote(j.entry.Path))
			}
			return nil
		}
	})
}

// look compares what lstat can see of a tree with its manifest, and that nothing else is in it.
// Each file is handed to visit.
func look(
	ctx context.Context, root *os.File, want manifest.Manifest,
	visit func(dir int, name string, e *manifest.Entry, st *unix.Stat_t) error,
) error {
	index := make(map[string]int, len(want))
	for i := range want {
		index[want[i].Path] = i
	}
	found := make([]bool, len(want))
	err := walker{visit: func(dir int, name, path string, st *unix.Stat_t) error {
		i, ok := index[path]
		if !ok {
			return fmt.Errorf("%s does not belong there", manifest.Quote(path))
		}
		found[i] = true
		e := &want[i]
		if err := compare(e, dir, name, st); err != nil || e.Type != 'f' {
			return err
		}
		return visit(dir, name, e, st)
	}}.walk(ctx, root)
	if err != nil {
		return err
	}
	for i := range found {
		if !found[i] {
			return fmt.Errorf("%s is missing", manifest.Quote(want[i].Path))
		}
	}
	return nil
}

// Untouched says that a release is what its manifest says, as Verify does, but reads only those
// files that somebody else may have touched.
func (v *Volume) Untouched(ctx context.Context, id string) error {
	t, err := v.openTree(id)
	if err != nil {
		return err
	}
	defer t.close()
	if err := inspect(ctx, t.dir, t.manifest, t.ours); err != nil {
		return fmt.Errorf("release %s was edited in place: %w", id, err)
	}
	return nil
}

func compare(e *manifest.Entry, dir int, name string, st *unix.Stat_t) error {
	if !matches(e, st) {
		return fmt.Errorf("%s: a %s of mode %04o and %d bytes, want %s",
			manifest.Quote(e.Path), kind(st.Mode), st.Mode&manifest.MaxMode, st.Size, describe(e))
	}
	if e.Type != 'l' {
		return nil
	}
	if target := targetOf(dir, name); target != e.Target {
		return fmt.Errorf("%s: a symlink to %q, want %q", manifest.Quote(e.Path), target, e.Target)
	}
	return nil
}

func describe(e *manifest.Entry) string {
	switch e.Type {
	case 'f':
		return fmt.Sprintf("a file of mode %04o and %d bytes", e.Mode, e.Size)
	case 'd':
		return fmt.Sprintf("a directory of mode %04o", e.Mode)
	default:
		return "a symlink"
	}
}
