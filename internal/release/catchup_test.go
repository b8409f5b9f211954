package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ebs-release/internal/gc"
	"ebs-release/internal/pack"

	"golang.org/x/sys/unix"
)

// packOf is the text of a pack from one release on a volume to another one there.
func packOf(t *testing.T, tree *Volume, from, to Ingested) []byte {
	t.Helper()
	c, err := tree.Changes(t.Context(), from.ID, to.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if c.FromDigest != from.Digest || c.ToDigest != to.Digest {
		t.Fatalf("%+v", c.Step)
	}
	var text bytes.Buffer
	head := pack.Head{From: c.FromDigest, To: c.ToDigest, Release: c.To}
	if err := pack.Write(t.Context(), &text, head, c.All(t.Context()), c.Open); err != nil {
		t.Fatal(err)
	}
	return text.Bytes()
}

func catchUp(ctx context.Context, tree *Volume, from, to Ingested, text io.Reader) error {
	p, err := pack.NewReader(text)
	if err != nil {
		return err
	}
	return tree.CatchUp(ctx, Step{From: from.ID, FromDigest: from.Digest, To: to.ID, ToDigest: to.Digest}, p)
}

// history is a server that published some releases, the last of them changed in every way that
// there is, and a member's volume, as its snapshot of the one before makes it.
func history(t *testing.T) (server, far *Volume, before, next Ingested) {
	t.Helper()
	server, far = volume(t), volume(t)
	src := source(t, map[string]string{
		"same": "same", "changed": "old", "gone": "gone", "dir/in/it": "deep", "dir/gone": "x", "0755 mode": "a program", "moves": "moved content",
		"moves and changes mode": "another content", "is a file": "file", "was dir/a": "a", "was dir/b/c": "c", "empty/": "", "full/x": "x",
		"link -> same": "", "link to change -> same": "", "twice": "twin", "odd\nname": "odd", "closed/inside": "y", "swap a": "AAA", "swap b": "BBB",
	})
	publish(t, server, src, 1)
	put(t, src, "same too", "more")
	before = publish(t, server, src, 2)
	copyTo(t, server, far)

	put(t, src, "changed", "new, and longer")
	for _, gone := range []string{"gone", "dir/gone", "is a file", "was dir", "full", "link to change", "empty"} {
		remove(t, src, gone)
	}
	put(t, src, "0644 mode", "a program")
	for old, path := range map[string]string{"moves": "moved/to/here", "moves and changes mode": "dir/moved", "swap a": "swap"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(src+"/"+path), 0o755), os.Rename(src+"/"+old, src+"/"+path)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Rename(src+"/swap b", src+"/swap a"), os.Rename(src+"/swap", src+"/swap b"),
		os.Chmod(src+"/dir/moved", 0o600), os.Chmod(src+"/closed", 0o555)); err != nil {
		t.Fatal(err)
	}
	put(t, src, "is a file/now a directory", "d")
	put(t, src, "was dir", "now a file")
	put(t, src, "link to change -> elsewhere", "")
	put(t, src, "empty -> same", "")
	put(t, src, "full/", "")
	put(t, src, "new/deep/tree/of/files", strings.Repeat("z", 100_000))
	put(t, src, "new/empty", "")
	put(t, src, "thrice", "twin")
	next = publish(t, server, src, 3)
	t.Cleanup(func() { _ = os.Chmod(src+"/closed", 0o755) })
	return server, far, before, next
}

// whole says that a volume has these releases, each as its manifest says, and nothing else in their
// places.
func whole(t *testing.T, tree *Volume, when string, want ...string) {
	t.Helper()
	ids, err := tree.Releases()
	if err != nil || !slices.Equal(ids, want) {
		t.Fatalf("%s: releases %v, %v, want %v", when, ids, err, want)
	}
	for _, id := range ids {
		if err := tree.Verify(t.Context(), id); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
	for _, left := range []string{"releases/*" + changingExt, "releases/*" + partialExt, catchUpDir} {
		if found, _ := filepath.Glob(tree.Root() + "/" + left); len(found) > 0 {
			t.Fatalf("%s: left behind %v", when, found)
		}
	}
}

func TestCatchUpMakesTheReleaseThatWasPublished(t *testing.T) {
	server, far, before, next := history(t)
	old, err := far.Releases()
	if err != nil {
		t.Fatal(err)
	}
	untouched := inode(t, far.Path(before.ID)+"/same")
	if err := catchUp(t.Context(), far, before, next, bytes.NewReader(packOf(t, server, before, next))); err != nil {
		t.Fatal(err)
	}
	whole(t, far, "after it", old[0], next.ID)
	same(t, server.Path(next.ID), far.Path(next.ID))
	if inode(t, far.Path(next.ID)+"/same") != untouched {
		t.Error("a file that did not change was made anew")
	}
	if err := far.Activate(t.Context(), next.ID, next.Digest, 3); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(far.Check(next.ID, next.Digest, 3), far.Untouched(t.Context(), next.ID), far.Untouched(t.Context(), old[0])); err != nil {
		t.Fatal(err)
	}
	// What came out belongs to the owner of the tree.
	be(t, call{Op: "verify", Root: far.Root(), ID: next.ID}, "")
}

// TestCatchUpOfRandomTrees: whatever two releases are.
func TestCatchUpOfRandomTrees(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(11, seed))
		server, far := volume(t), volume(t)
		src := t.TempDir()
		scramble(t, r, src)
		before := publish(t, server, src, 1)
		copyTo(t, server, far)
		for range 3 {
			scramble(t, r, src)
		}
		next := publish(t, server, src, 2)
		if next.Digest == before.Digest {
			continue
		}
		if err := catchUp(t.Context(), far, before, next, bytes.NewReader(packOf(t, server, before, next))); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		whole(t, far, fmt.Sprint("seed ", seed), next.ID)
		same(t, server.Path(next.ID), far.Path(next.ID))
	}
}

// scramble makes, changes, moves and removes things in a directory.
func scramble(t *testing.T, r *rand.Rand, dir string) {
	t.Helper()
	name := func() string {
		parts := make([]string, 1+r.IntN(3))
		for i := range parts {
			parts[i] = string(rune('a' + r.IntN(4)))
		}
		return filepath.Join(parts...)
	}
	put(t, dir, "there is one", fmt.Sprint(r.IntN(3)))
	for range 25 {
		path := filepath.Join(dir, name())
		switch r.IntN(6) {
		case 0:
			_ = os.RemoveAll(path)
		case 1:
			_ = os.MkdirAll(path, 0o755)
		case 2:
			_ = os.Symlink(name(), path)
		case 3:
			_ = os.Rename(path, filepath.Join(dir, name()))
		default:
			_ = os.MkdirAll(filepath.Dir(path), 0o755)
			if st, err := os.Lstat(path); err == nil && !st.Mode().IsRegular() {
				continue
			}
			_ = os.WriteFile(path, []byte(strings.Repeat(name(), r.IntN(200))), 0o644)
			_ = os.Chmod(path, []fs.FileMode{0o644, 0o755, 0o600}[r.IntN(3)])
		}
	}
}

// TestABadPackChangesNothing: whatever is wrong is found before the tree is touched.
func TestABadPackChangesNothing(t *testing.T) {
	server, far, before, next := history(t)
	good := packOf(t, server, before, next)
	other := next
	other.Digest = strings.Repeat("ab", 32)
	ours := listing(t, far)
	for name, try := range map[string]func() error{
		"cut off":                 func() error { return catchUp(t.Context(), far, before, next, bytes.NewReader(good[:len(good)-1])) },
		"cut off in the contents": func() error { return catchUp(t.Context(), far, before, next, bytes.NewReader(good[:len(good)-5000])) },
		"another content": func() error {
			return catchUp(t.Context(), far, before, next, bytes.NewReader(bytes.Replace(good, []byte("zzz"), []byte("zzy"), 1)))
		},
		"another release": func() error { return catchUp(t.Context(), far, before, other, bytes.NewReader(good)) },
		"another base":    func() error { return catchUp(t.Context(), far, next, before, bytes.NewReader(good)) },
		"one entry less": func() error {
			return catchUp(t.Context(), far, before, next, bytes.NewReader(bytes.Replace(good, []byte("- gone\n"), nil, 1)))
		},
		"the end of its context": func() error {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return catchUp(ctx, far, before, next, bytes.NewReader(good))
		},
	} {
		if err := try(); err == nil {
			t.Errorf("%s: it was taken", name)
		}
		if now := listing(t, far); now != ours {
			t.Fatalf("%s: the volume was changed:\n%s\nbefore:\n%s", name, now, ours)
		}
	}
}

// TestAnEditedFileIsNotMovedOn: what a member's tree has at the path that a file moves from is not
// what its manifest says, and its mtime was set back.
func TestAnEditedFileIsNotMovedOn(t *testing.T) {
	for _, path := range []string{"moves", "moves and changes mode"} {
		server, far, before, next := history(t)
		file := far.Path(before.ID) + "/" + path
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		data := bytes.Repeat([]byte("!"), int(info.Size()))
		if err := errors.Join(os.WriteFile(file, data, 0), os.Chtimes(file, info.ModTime(), info.ModTime())); err != nil {
			t.Fatal(err)
		}
		ours := listing(t, far)
		err = catchUp(t.Context(), far, before, next, bytes.NewReader(packOf(t, server, before, next)))
		wantError(t, err, path, "is not what its manifest says")
		if now := listing(t, far); now != ours {
			t.Fatalf("the volume was changed:\n%s\nbefore:\n%s", now, ours)
		}
	}
}

// TestADamagedBaseIsNotThePacksFault: the manifest that is held is not the one of its digest.
func TestADamagedBaseIsNotThePacksFault(t *testing.T) {
	server, far, before, next := history(t)
	good := packOf(t, server, before, next)
	text := filepath.Join(far.Root(), stateDir, before.ID+manifestExt)
	data, err := os.ReadFile(text)
	if err != nil {
		t.Fatal(err)
	}
	for name, damaged := range map[string][]byte{
		"a byte":      bytes.Replace(data, []byte(" same\n"), []byte(" sane\n"), 1),
		"what goes":   bytes.Replace(data, []byte(" gone\n"), []byte(" gonf\n"), 1),
		"not a line":  append([]byte("\n"), data...),
		"half of all": data[:len(data)/2],
	} {
		if err := os.WriteFile(text, damaged, 0); err != nil {
			t.Fatal(err)
		}
		ours := listing(t, far)
		err := catchUp(t.Context(), far, before, next, bytes.NewReader(good))
		if wantError(t, err, "release "+before.ID, "has digest"); bytes.Equal(damaged, data) {
			t.Errorf("%s: nothing was damaged", name)
		}
		if now := listing(t, far); now != ours {
			t.Errorf("%s: the volume was changed:\n%s\nbefore:\n%s", name, now, ours)
		}
	}
}

// TestAnEditKeepsItsTrace: a file that goes from this tree, and that somebody edited in an older
// one that shares it, is still found there.
func TestAnEditKeepsItsTrace(t *testing.T) {
	server, far, before, next := history(t)
	ids, err := far.Releases()
	if err != nil {
		t.Fatal(err)
	}
	pack := packOf(t, server, before, next)
	// A copy has no shared files: make it one.
	shared, also := far.Path(ids[0])+"/gone", far.Path(before.ID)+"/gone"
	info, err := os.Stat(shared)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(also), os.Link(shared, also), os.WriteFile(shared, []byte("evil"), 0), os.Chtimes(shared, info.ModTime(), info.ModTime())); err != nil {
		t.Fatal(err)
	}
	if err := catchUp(t.Context(), far, before, next, bytes.NewReader(pack)); err != nil {
		t.Fatal(err)
	}
	wantError(t, far.Untouched(t.Context(), ids[0]), "gone")
}

// untilItFits tries something on a volume that has less and less in its way, from some KiB on. As
// long as it is too full, nothing is changed there.
func untilItFits(t *testing.T, tight *Volume, most int, try func() error) {
	t.Helper()
	failed, done := 0, false
	for fill := most; fill >= 0 && !done; fill -= 4 {
		file := tight.Root() + "/fill"
		if err := os.WriteFile(file, make([]byte, fill<<10), 0o600); err != nil {
			remove(t, file, "")
			continue
		}
		ours := listing(t, tight)
		err := try()
		if done = err == nil; !done {
			failed++
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			if now := listing(t, tight); now != ours {
				t.Fatalf("the volume was changed:\n%s\nbefore:\n%s", now, ours)
			}
		}
		remove(t, file, "")
	}
	if !done || failed < 10 {
		t.Errorf("test bug: %d were too full, and one was not: %v", failed, done)
	}
}

// TestCatchUpOnAFullVolume: it ends before the tree is touched, also when only the last bytes are
// missing.
func TestCatchUpOnAFullVolume(t *testing.T) {
	server, far, before, next := history(t)
	good := packOf(t, server, before, next)
	tight := small(t, 1500)
	copyTo(t, far, tight)
	untilItFits(t, tight, 1300, func() error { return catchUp(t.Context(), tight, before, next, bytes.NewReader(good)) })
	ids, err := tight.Releases()
	if err != nil {
		t.Fatal(err)
	}
	whole(t, tight, "after it", ids[0], next.ID)
}

// TestPowerMayFailAtEveryStepOfCatchingUp: stopped before each system call that changes something;
// see powerCuts. What is found after the next boot is one whole release or
// the other, and catching up once more ends with the next.
func TestPowerMayFailAtEveryStepOfCatchingUp(t *testing.T) {
	t.Parallel()
	server, far, before, next := history(t)
	old, err := far.Releases()
	if err != nil {
		t.Fatal(err)
	}
	text := packOf(t, server, before, next)
	one := call{Op: "catch up", ID: next.ID, Digest: next.Digest, Base: before.ID, BaseDigest: before.Digest, Generation: 3}
	for name, synced := range map[string]bool{"all on disk": true, "only what was waited for": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			finished := 0
			points, looked := powerCuts(t, far, one, text, synced, func(v *Volume, when string) {
				if bootAfter(t, v, when, old[0], before, next, text) {
					finished++
				}
			}, func(v *Volume) { whole(t, v, "undisturbed", old[0], next.ID) })
			t.Logf("catch-up crash matrix: %d points, %d different disks, %d ended by the journal", points, looked, finished)
			if points < 150 || synced && (looked < 100 || finished < 30) || looked < 3 || finished < 1 {
				t.Error("test bug: catching up was hardly seen")
			}
		})
	}
}

// bootAfter does what a boot does with a volume: ends what was begun, and catches up. It is itself
// cut off once on the way, which changes nothing.
func bootAfter(t *testing.T, tree *Volume, when, old string, before, next Ingested, text []byte) (finished bool) {
	t.Helper()
	id, err := tree.FinishCatchUp(t.Context())
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	if id != "" && id != next.ID {
		t.Fatalf("%s: %q came out", when, id)
	}
	if _, err := os.Stat(tree.Path(next.ID)); err != nil {
		if id != "" {
			t.Fatalf("%s: %v", when, err)
		}
		// Nothing had happened yet: the release is what it was, and serves.
		if err := errors.Join(tree.Verify(t.Context(), before.ID), tree.Check(before.ID, before.Digest, 2)); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if err := catchUp(t.Context(), tree, before, next, bytes.NewReader(text)); err != nil {
			t.Fatalf("%s: once more: %v", when, err)
		}
	}
	if err := tree.Activate(t.Context(), next.ID, next.Digest, 3); err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	if err := tree.Check(next.ID, next.Digest, 3); err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	if _, err := tree.Prune(t.Context(), gc.Wanted{Keep: 5}); err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	whole(t, tree, when, old, next.ID)
	return id != ""
}
