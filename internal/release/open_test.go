package release

import (
	"bytes"
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"ebs-release/internal/gc"
	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

// Row 89: whoever owns the tree puts something else in the place of whatever this package opens
// there. Nobody who reads or changes the tree, root among them, waits for the other end of a fifo,
// or goes where a symlink leads to.
func TestWhatTheOwnerPutsThereHoldsNobodyUp(t *testing.T) {
	server, far, one, two := pair(t)
	text := packOf(t, server, one, two)
	if err := far.Activate(t.Context(), one.ID, one.Digest, 1); err != nil {
		t.Fatal(err)
	}
	verbs := map[string]func(ctx context.Context, tree *Volume) error{
		"current":    func(_ context.Context, tree *Volume) error { _, err := tree.Current(); return err },
		"generation": func(_ context.Context, tree *Volume) error { _, err := tree.Generation(); return err },
		"releases":   func(_ context.Context, tree *Volume) error { _, err := tree.Releases(); return err },
		"manifest":   func(_ context.Context, tree *Volume) error { _, err := tree.Manifest(one.ID); return err },
		"check":      func(_ context.Context, tree *Volume) error { return tree.Check(one.ID, one.Digest, 1) },
		"verify":     func(ctx context.Context, tree *Volume) error { return tree.Verify(ctx, one.ID) },
		"activate":   func(ctx context.Context, tree *Volume) error { return tree.Activate(ctx, one.ID, one.Digest, 2) },
		"prune": func(ctx context.Context, tree *Volume) error {
			_, err := tree.Prune(ctx, gc.Wanted{Keep: 1})
			return err
		},
		"init": func(_ context.Context, tree *Volume) error { return tree.Init(ordinary, ordinary) },
		"catch up beside": func(ctx context.Context, tree *Volume) error {
			return catchUpBeside(ctx, tree, one, two, bytes.NewReader(text), 0)
		},
		"whole": func(ctx context.Context, tree *Volume) error {
			_, err := tree.Whole(ctx, one.ID, one.Digest)
			return err
		},
		"holds": func(_ context.Context, tree *Volume) error { _, err := tree.Holds(); return err },
	}
	writers := []string{"activate", "init", "prune", "catch up beside", "whole"} // each has a tree of its own
	first := manifestAt(t, far, one.ID)
	file := slices.IndexFunc(first, func(e manifest.Entry) bool { return e.Type == 'f' })
	directory := slices.IndexFunc(first, func(e manifest.Entry) bool { return e.Type == 'd' })
	for name, feltBy := range map[string][]string{ // the verbs that must fail of it
		releasesDir:                              {"releases", "verify", "check", "activate", "init", "catch up beside", "whole", "holds"},
		releasesDir + "/" + one.ID:               {"verify", "check", "activate", "catch up beside", "whole"},
		far.below(one.ID, first[file].Path):      {"verify", "catch up beside"},
		far.below(one.ID, first[directory].Path): {"verify", "catch up beside"},
		stateDir:                                 {"generation", "manifest", "check", "activate", "init", "prune", "catch up beside", "whole"},
		lockPath:                                 {"activate", "prune", "catch up beside", "whole", "init"},
		fencePath:                                {"generation", "check", "activate"},
		stateDir + "/" + one.ID + manifestExt:    {"manifest", "check", "verify", "catch up beside", "whole"},
		stateDir + "/" + two.ID + manifestExt:    nil, // left of a release that did not get its name
		stateDir + "/." + currentName:            nil, // left of a flip that was cut off
		stateDir + "/" + incoming:                nil,
		besideDir:                                nil,
		releasesDir + "/" + two.ID + partialExt:  nil,
	} {
		for plant, put := range map[string]func(path, moved string) error{
			"fifo":           func(path, _ string) error { return unix.Mkfifo(path, 0o666) },
			"link to a fifo": func(path, moved string) error { return os.Symlink("../fifo", path) },
			"link to what it was": func(path, moved string) error {
				rel, err := filepath.Rel(filepath.Dir(path), moved)
				if err != nil {
					return err
				}
				return os.Symlink(rel, path)
			},
			"link out of it": func(path, _ string) error { return os.Symlink("/etc", path) },
		} {
			t.Run(name+" "+plant, func(t *testing.T) {
				t.Parallel()
				spoiled := func() *Volume {
					tree := member(t, far)
					path, moved := filepath.Join(tree.Root(), name), filepath.Join(tree.Root(), "moved")
					if err := os.Rename(path, moved); err != nil && !os.IsNotExist(err) {
						t.Fatal(err)
					}
					for _, fifo := range []string{"fifo", "releases/fifo"} {
						if err := unix.Mkfifo(filepath.Join(tree.Root(), fifo), 0o666); err != nil && name != releasesDir {
							t.Fatal(err)
						}
					}
					if err := put(path, moved); err != nil {
						t.Fatal(err)
					}
					return tree
				}
				tree := spoiled()
				for _, verb := range slices.Sorted(maps.Keys(verbs)) {
					if slices.Contains(writers, verb) {
						tree = spoiled()
					}
					ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
					defer cancel()
					done := make(chan error, 1)
					go func() { done <- verbs[verb](ctx, tree) }()
					select {
					case err := <-done:
						if err == nil && slices.Contains(feltBy, verb) {
							t.Errorf("it made no difference to %s", verb)
						}
					case <-ctx.Done():
						t.Fatalf("%s hangs", verb)
					}
					if slices.Contains(writers, verb) {
						tree = spoiled()
					}
				}
			})
		}
	}
}

// below is the name, from the root, of a path in a release.
func (v *Volume) below(id, path string) string { return releasesDir + "/" + id + "/" + path }
