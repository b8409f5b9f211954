package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestCatchUpBesideMakesTheReleaseThatWasPublished: by root and by the owner of the tree, and what
// is served is what it was, to the inode.
func TestCatchUpBesideMakesTheReleaseThatWasPublished(t *testing.T) {
	for who, do := range map[string]func(t *testing.T, far *Volume, before, next Ingested, text []byte){
		"root": func(t *testing.T, far *Volume, before, next Ingested, text []byte) {
			served := listingOf(t, far, before.ID)
			if err := catchUpBeside(t.Context(), far, before, next, bytes.NewReader(text), 0); err != nil {
				t.Fatal(err)
			}
			if now := listingOf(t, far, before.ID); now != served {
				t.Errorf("what is served was changed:\n%s\nbefore:\n%s", now, served)
			}
			if err := errors.Join(far.Check(before.ID, before.Digest, 2), far.Activate(t.Context(), next.ID, next.Digest, 3)); err != nil {
				t.Fatal(err)
			}
		},
		"the owner": func(t *testing.T, far *Volume, before, next Ingested, text []byte) {
			be(t, call{
				Op: "catch up beside", Root: far.Root(), ID: next.ID, Digest: next.Digest, Base: before.ID, BaseDigest: before.Digest, Generation: 3,
			}, string(text))
		},
	} {
		t.Run(who, func(t *testing.T) {
			server, far, before, next := history(t)
			old, err := far.Releases()
			if err != nil {
				t.Fatal(err)
			}
			do(t, far, before, next, packOf(t, server, before, next))
			whole(t, far, "after it", old[0], before.ID, next.ID)
			same(t, server.Path(next.ID), far.Path(next.ID))
			for path, from := range map[string]string{"same": "same", "moved/to/here": "moves"} {
				if inode(t, far.Path(next.ID)+"/"+path) != inode(t, far.Path(before.ID)+"/"+from) {
					t.Errorf("%s is not the base's", path)
				}
			}
			if err := far.Check(next.ID, next.Digest, 3); err != nil {
				t.Fatal(err)
			}
			for _, id := range []string{old[0], before.ID, next.ID} {
				if err := far.Untouched(t.Context(), id); err != nil {
					t.Error(err)
				}
			}
			be(t, call{Op: "verify", Root: far.Root(), ID: next.ID}, "")
			err = catchUpBeside(t.Context(), far, before, next, bytes.NewReader(packOf(t, server, before, next)), 0)
			if !errors.Is(err, fs.ErrExist) {
				t.Errorf("once more: %v", err)
			}
			wantError(t, err, "it can be activated as it is")
		})
	}
}

// TestAMemberWithoutReleasesGetsOneAsAnOrdinaryUser: from nothing, which is then the base of the
// next one. Its owner also removes it, below directories that the owner may not write to.
func TestAMemberWithoutReleasesGetsOneAsAnOrdinaryUser(t *testing.T) {
	server, _, one, two := pair(t)
	far := volume(t)
	pushAsOwner(t, server, far, Ingested{}, one, 1)
	pushAsOwner(t, server, far, one, two, 2)
	whole(t, far, "after it", one.ID, two.ID)
	for _, in := range []Ingested{one, two} {
		same(t, server.Path(in.ID), far.Path(in.ID))
	}
	if inode(t, far.Path(one.ID)+"/bin/run") != inode(t, far.Path(two.ID)+"/bin/run") {
		t.Error("an unchanged file was not linked")
	}
	be(t, call{Op: "activate", Root: far.Root(), ID: one.ID, Digest: one.Digest, Generation: 3}, "")
	be(t, call{Op: "prune", Root: far.Root()}, "")
	whole(t, far, "after a prune", one.ID)
}

// TestAReleaseThatIsThereIsLeftAlone: one of another digest is no release to activate.
func TestAReleaseThatIsThereIsLeftAlone(t *testing.T) {
	server, far, before, next := history(t)
	text := packOf(t, server, Ingested{}, before)
	ours := listing(t, far)
	err := catchUpBeside(t.Context(), far, Ingested{}, before, bytes.NewReader(text), 0)
	if wantError(t, err, "it can be activated as it is"); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	err = catchUpBeside(t.Context(), far, Ingested{}, Ingested{ID: before.ID, Digest: next.Digest}, bytes.NewReader(text), 0)
	if wantError(t, err, "has digest"); errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	if now := listing(t, far); now != ours {
		t.Fatalf("the volume was changed:\n%s\nbefore:\n%s", now, ours)
	}
}

// listingOf is listing of one release. A further name of a file moves its count of them.
func listingOf(t *testing.T, tree *Volume, id string) string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(listing(t, tree)) {
		if strings.Contains(line, id) {
			lines = append(lines, line[:strings.LastIndexByte(line, ' ')])
		}
	}
	return strings.Join(lines, "\n")
}

// TestCatchUpBesideOfRandomTrees: whatever two releases are, from the one, from the other, and from
// nothing; and with an old tree that becomes the new one.
func TestCatchUpBesideOfRandomTrees(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(12, seed))
		server, far, empty := volume(t), volume(t), volume(t)
		src := t.TempDir()
		var held []Ingested
		for n := range 4 {
			scramble(t, r, src)
			scramble(t, r, src)
			held = append(held, publish(t, server, src, int64(n+1)))
			if n == 2 {
				copyTo(t, server, far)
			}
		}
		next := held[3]
		if ids, err := server.Releases(); err != nil || len(ids) != 4 {
			continue // one was published twice
		}
		if err := catchUpBeside(t.Context(), far, held[2], next, bytes.NewReader(packOf(t, server, held[2], next)), 3); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		whole(t, far, fmt.Sprint("seed ", seed), held[1].ID, held[2].ID, next.ID) // the oldest became the next
		same(t, server.Path(next.ID), far.Path(next.ID))
		if err := catchUpBeside(t.Context(), empty, Ingested{}, next, bytes.NewReader(packOf(t, server, Ingested{}, next)), 3); err != nil {
			t.Fatalf("seed %d, from nothing: %v", seed, err)
		}
		whole(t, empty, fmt.Sprint("seed ", seed), next.ID)
		same(t, server.Path(next.ID), empty.Path(next.ID))
	}
}

// TestNamesThatComeBetweenADirectoryAndWhatIsInIt: by the bytes of their paths "a!" and "a-b" do,
// and what the oldest tree has in any of them goes.
func TestNamesThatComeBetweenADirectoryAndWhatIsInIt(t *testing.T) {
	server, src := volume(t), t.TempDir()
	var held []Ingested
	for n := range 4 {
		for _, dir := range []string{"a", "a-b", "a!", "a-b/c", "a-b/c-d", "a-b/c!", "b"} {
			if n == 1 {
				remove(t, src, dir+"/goes")
			} else if n == 0 {
				put(t, src, dir+"/goes", dir)
				put(t, src, dir+"/stays", dir)
				put(t, src, dir+".txt", dir)
			}
			put(t, src, dir+"/changes", fmt.Sprint(dir, n))
			put(t, src, fmt.Sprint(dir, "-", n, "/new"), dir)
		}
		if n == 3 {
			break
		}
		held = append(held, publish(t, server, src, int64(n+1)))
	}
	far := member(t, server)
	next := publish(t, server, src, 4)
	text := packOf(t, server, held[2], next)
	oldest := inode(t, far.Path(held[0].ID)+"/a-b/c")
	if err := catchUpBeside(t.Context(), far, held[2], next, bytes.NewReader(text), 3); err != nil {
		t.Fatal(err)
	}
	whole(t, far, "after it", held[1].ID, held[2].ID, next.ID)
	same(t, server.Path(next.ID), far.Path(next.ID))
	if inode(t, far.Path(next.ID)+"/a-b/c") != oldest {
		t.Error("test bug: it was not made of the oldest tree")
	}
}

// TestCatchUpBesideOnAFullVolume: it ends with what is served as it was, and where an old release
// may go, it goes first.
func TestCatchUpBesideOnAFullVolume(t *testing.T) {
	server, far, before, next := history(t)
	good := packOf(t, server, before, next)
	tight := small(t, 1500)
	copyTo(t, far, tight)
	untilItFits(t, tight, 1480, func() error { return catchUpBeside(t.Context(), tight, before, next, bytes.NewReader(good), 2) })
	same(t, server.Path(next.ID), tight.Path(next.ID))
	if err := tight.Check(before.ID, before.Digest, 2); err != nil {
		t.Error(err)
	}
}

// TestAFullVolumeIsAClearErrorBeside: it is said before anything is written.
func TestAFullVolumeIsAClearErrorBeside(t *testing.T) {
	server := volume(t)
	dir := source(t, first)
	one := publish(t, server, dir, 1)
	far := small(t, 512)
	copyTo(t, server, far)
	put(t, dir, "big", strings.Repeat("x", 1<<20))
	two := publish(t, server, dir, 2)
	before := listing(t, far)
	err := catchUpBeside(t.Context(), far, one, two, bytes.NewReader(packOf(t, server, one, two)), 0)
	wantError(t, err, "the release needs 1.0 MiB more", "no space left on device")
	if !errors.Is(err, unix.ENOSPC) || listing(t, far) != before {
		t.Fatalf("%v, or the volume changed", err)
	}
}

// TestNobodyElseChangesTheVolumeMeanwhile: not until the release is there.
func TestNobodyElseChangesTheVolumeMeanwhile(t *testing.T) {
	server, far, one, two := pair(t)
	if err := catchUpMeanwhile(t, far, one, two, packOf(t, server, one, two), func() {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		wantError(t, far.Activate(ctx, one.ID, one.Digest, 7), "held by another process")
	}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(far.Check(one.ID, one.Digest, 1), far.Activate(t.Context(), one.ID, one.Digest, 7)); err != nil {
		t.Fatal(err)
	}
}

// TestCatchUpBesideKeepsNothingForEachFile: what it holds in memory does not grow with the release.
func TestCatchUpBesideKeepsNothingForEachFile(t *testing.T) {
	const files, limit = 8_000, 800 << 10 // bytes, most of them buffers; the entries alone would be twice that
	server, far, src := small(t, 64<<10), small(t, 64<<10), small(t, 64<<10).Root()+"/source"
	for i := range files {
		put(t, src, fmt.Sprintf("part%d/module%d/file%d.txt", i/5000, i/500, i), fmt.Sprint("content ", i))
	}
	before := publish(t, server, src, 1)
	copyTo(t, server, far)
	put(t, src, "new", "new")
	next := publish(t, server, src, 2)
	text := packOf(t, server, before, next)
	held, most := heap(), uint64(0)
	if err := catchUpMeanwhile(t, far, before, next, text, func() { most = heap() }); err != nil {
		t.Fatal(err)
	}
	if grown := int64(most) - int64(held); grown > limit {
		t.Errorf("%d files took %d bytes, want at most %d", files, grown, limit)
	}
	same(t, server.Path(next.ID), far.Path(next.ID))
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
