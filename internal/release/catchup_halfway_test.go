package release

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strings"
	"testing"

	"ebs-release/internal/gc"
	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

// setFlag is chattr: +i, +a, or neither.
func setFlag(t *testing.T, path string, flag int) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if err := unix.IoctlSetPointerInt(int(file.Fd()), unix.FS_IOC_SETFLAGS, flag); err != nil {
		t.Fatal(err)
	}
}

const immutable = 0x10 // FS_IMMUTABLE_FL of linux/fs.h

// TestWhatWouldStopItHalfwayIsFoundBefore: a tree that its owner edited, or what stands where
// something is to be put.
func TestWhatWouldStopItHalfwayIsFoundBefore(t *testing.T) {
	for name, try := range map[string]struct {
		do   func(t *testing.T, far *Volume, before, next Ingested)
		want string // ""; it works all the same
	}{
		"a directory is missing": {func(t *testing.T, far *Volume, before, _ Ingested) {
			remove(t, far.Path(before.ID), "dir")
		}, "dir"},
		"a directory is a file": {func(t *testing.T, far *Volume, before, _ Ingested) {
			remove(t, far.Path(before.ID), "dir")
			put(t, far.Path(before.ID), "dir", "x")
		}, "dir"},
		"a directory is a symlink": {func(t *testing.T, far *Volume, before, _ Ingested) {
			remove(t, far.Path(before.ID), "dir")
			put(t, far.Path(before.ID), "dir -> /etc", "")
		}, "dir"},
		"a file is immutable": {func(t *testing.T, far *Volume, before, _ Ingested) {
			file := far.Path(before.ID) + "/changed"
			setFlag(t, file, immutable)
			t.Cleanup(func() { setFlag(t, file, 0) })
		}, "changed"},
		"a directory is immutable": {func(t *testing.T, far *Volume, before, _ Ingested) {
			dir := far.Path(before.ID) + "/dir"
			setFlag(t, dir, immutable)
			t.Cleanup(func() { setFlag(t, dir, 0) })
		}, "dir"},
		"a file to move is endless": {func(t *testing.T, far *Volume, before, _ Ingested) {
			if err := os.Truncate(far.Path(before.ID)+"/moves and changes mode", 1<<42); err != nil {
				t.Fatal(err)
			}
		}, "is not what its manifest says"},
		"a tree that lost its journal": {func(t *testing.T, far *Volume, _, next Ingested) {
			put(t, far.Path(next.ID)+changingExt, "left", "x")
		}, ""},
		"a directory where the manifest goes": {func(t *testing.T, far *Volume, _, next Ingested) {
			put(t, far.Root()+"/"+stateDir, next.ID+manifestExt+"/in", "x")
		}, ""},
		"a file where a directory goes": {func(t *testing.T, far *Volume, before, _ Ingested) {
			put(t, far.Path(before.ID), "new", "x")
		}, ""},
		"a directory where a file goes": {func(t *testing.T, far *Volume, before, _ Ingested) {
			put(t, far.Path(before.ID), "thrice/full/x", "x")
		}, ""},
		"a fifo where a file goes": {func(t *testing.T, far *Volume, before, _ Ingested) {
			if err := unix.Mkfifo(far.Path(before.ID)+"/thrice", 0o600); err != nil {
				t.Fatal(err)
			}
		}, ""},
		"what is to go is gone": {func(t *testing.T, far *Volume, before, _ Ingested) {
			remove(t, far.Path(before.ID), "was dir")
			remove(t, far.Path(before.ID), "gone")
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			server, far, before, next := history(t)
			text := packOf(t, server, before, next)
			old, err := far.Releases()
			if err != nil {
				t.Fatal(err)
			}
			try.do(t, far, before, next)
			ours := listing(t, far)
			err = catchUp(t.Context(), far, before, next, bytes.NewReader(text))
			if try.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				whole(t, far, "after it", old[0], next.ID)
				return
			}
			wantError(t, err, try.want)
			if now := listing(t, far); now != ours {
				t.Fatalf("the volume was changed:\n%s\nbefore:\n%s", now, ours)
			}
		})
	}
}

// TestNothingElseHappensHalfway: a volume that has a journal is not pruned, activated or pushed to.
func TestNothingElseHappensHalfway(t *testing.T) {
	server, far, before, next := history(t)
	text := packOf(t, server, before, next)
	old, err := far.Releases()
	if err != nil {
		t.Fatal(err)
	}
	halfway(t, far, before, next, text)
	_, pruned := far.Prune(t.Context(), gc.Wanted{Keep: 1})
	besides := catchUpBeside(t.Context(), far, Ingested{}, next, bytes.NewReader(packOf(t, server, Ingested{}, next)), 0)
	_, looked := far.Whole(t.Context(), old[0], before.Digest)
	for what, err := range map[string]error{
		"prune": pruned, "catch up beside": besides, "look": looked,
		"activate": far.Activate(t.Context(), before.ID, before.Digest, 9), "remove": far.Remove(t.Context(), old[0]),
	} {
		if !errors.Is(err, ErrHalfway) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if id, err := far.FinishCatchUp(t.Context()); id != next.ID || err != nil {
		t.Fatalf("%q, %v", id, err)
	}
	whole(t, far, "after it", old[0], next.ID)
	if err := far.Activate(t.Context(), next.ID, next.Digest, 3); err != nil {
		t.Fatal(err)
	}
}

// halfway catches up until the tree has lost its name.
func halfway(t *testing.T, far *Volume, before, next Ingested, text []byte) {
	t.Helper()
	catchUpUntil(t, far, before, next, text, "")
}

// catchUpUntil catches up until the tree has lost its name, and a path is in it.
func catchUpUntil(t *testing.T, far *Volume, before, next Ingested, text []byte, path string) {
	t.Helper()
	ctx := &endsWhen{t.Context(), func() bool { _, err := os.Stat(far.Path(next.ID) + changingExt + "/" + path); return err == nil }}
	err := catchUp(ctx, far, before, next, bytes.NewReader(text))
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("test bug: %v", err)
	}
	if _, err := os.Stat(far.Path(next.ID) + changingExt); err != nil {
		t.Fatal(err)
	}
}

// endsWhen is a context that has ended when something is so.
type endsWhen struct {
	context.Context //nolint:containedctx // it is one
	ended           func() bool
}

func (c *endsWhen) Err() error {
	if c.ended() {
		return context.Canceled
	}
	return c.Context.Err()
}

// TestWhatWasPreparedAndIsLostIsMissed: nothing that is half new gets a name.
func TestWhatWasPreparedAndIsLostIsMissed(t *testing.T) {
	server, far, before, next := history(t)
	halfway(t, far, before, next, packOf(t, server, before, next))
	lost, aside := 0, far.Root()+"/aside"
	for number := range 100 {
		prepared := fmt.Sprint(far.Root(), "/", catchUpDir, "/", number)
		if number == 99 {
			prepared = far.Root() + "/" + mergedPath
		}
		if info, err := os.Lstat(prepared); err != nil || info.IsDir() { // of a directory a new mode may be all
			continue
		}
		if err := os.Rename(prepared, aside); err != nil {
			t.Fatal(err)
		}
		lost++
		if _, err := far.FinishCatchUp(t.Context()); err == nil {
			t.Fatalf("%s was lost, and nobody missed it", prepared)
		}
		if err := os.Rename(aside, prepared); err != nil {
			t.Fatal(err)
		}
	}
	if lost < 10 {
		t.Errorf("test bug: only %d were lost", lost)
	}
	if id, err := far.FinishCatchUp(t.Context()); id != next.ID || err != nil {
		t.Fatalf("%q, %v", id, err)
	}
	same(t, server.Path(next.ID), far.Path(next.ID))
}

// TestAReleaseOfThatNameIsLookedAt: one with the id of the next, and another content.
func TestAReleaseOfThatNameIsLookedAt(t *testing.T) {
	server, far, before, next := history(t)
	text := packOf(t, server, before, next)
	put(t, far.Path(next.ID), "something", "else")
	err := catchUp(t.Context(), far, before, next, bytes.NewReader(text))
	if err == nil || errors.Is(err, fs.ErrExist) {
		t.Fatalf("it can be activated, it says: %v", err)
	}
}

// TestAJournalThatLeadsNowhereIsRefused: what is there keeps its manifest.
func TestAJournalThatLeadsNowhereIsRefused(t *testing.T) {
	_, far, before, _ := history(t)
	put(t, far.Root(), journalPath, `{"from":"`+before.ID+`","to":"`+before.ID+`"}`)
	if _, err := far.FinishCatchUp(t.Context()); err == nil {
		t.Error("it was taken")
	}
	if err := far.Verify(t.Context(), before.ID); err != nil {
		t.Error(err)
	}
}

// TestTheTargetChangesBackBetweenTwoPowerCuts: forth, cut off, back, cut off, and forth.
func TestTheTargetChangesBackBetweenTwoPowerCuts(t *testing.T) {
	server, far, before, next := history(t)
	old, err := far.Releases()
	if err != nil {
		t.Fatal(err)
	}
	forth, back := packOf(t, server, before, next), packOf(t, server, next, before)
	halfway(t, far, before, next, forth)
	wantError(t, catchUp(t.Context(), far, before, next, bytes.NewReader(forth)), "it can be activated as it is")
	halfway(t, far, next, before, back)
	if err := catchUp(t.Context(), far, before, next, bytes.NewReader(forth)); err != nil {
		t.Fatal(err)
	}
	whole(t, far, "after it", old[0], next.ID)
	same(t, server.Path(next.ID), far.Path(next.ID))
}

// TestThereIsRoomForWhatIsLeft: each of many directories that are full gets one name more, which
// takes several blocks of each, on a volume that is as full as it can be.
func TestThereIsRoomForWhatIsLeft(t *testing.T) {
	server, src := volume(t), t.TempDir()
	long := strings.Repeat("n", 100)
	for d := range 80 {
		for n := range 36 { // of 112 bytes each: a block of 4096, which has no room for one more
			put(t, src, fmt.Sprintf("%03d/%s%02d", d, long, n), "")
		}
	}
	before := publish(t, server, src, 1)
	d := diskOf(t, 12<<20, "-b", "4096", "-N", "5000", "-m", "0", "-O", "^has_journal")
	d.attach(t)
	defer d.detach(t)
	tight := d.volume
	copyTo(t, server, tight)
	for d := range 80 {
		put(t, src, fmt.Sprintf("%03d/%s", d, long), "")
	}
	next := publish(t, server, src, 2)
	text := packOf(t, server, before, next)
	fill, err := os.Create(tight.Root() + "/fill")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = fill.Close() }()
	failed := 0
	for left := int64(0); ; left += 64 << 10 {
		d.sync(t)
		var st unix.Statfs_t
		if err := unix.Statfs(tight.Root(), &st); err != nil {
			t.Fatal(err)
		}
		for size := int64(st.Bfree)*st.Bsize - left; unix.Fallocate(int(fill.Fd()), 0, 0, size) != nil; {
			size -= st.Bsize
		}
		err = catchUp(t.Context(), tight, before, next, bytes.NewReader(text))
		if err == nil {
			break
		}
		failed++
		if _, halfway := os.Lstat(tight.Root() + "/" + journalPath); halfway == nil || !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("with %d KiB left: %v, and it is half way: %v", left>>10, err, halfway == nil)
		}
		if err := fill.Truncate(0); err != nil {
			t.Fatal(err)
		}
	}
	if failed < 5 {
		t.Errorf("test bug: only %d were too full", failed)
	}
	whole(t, tight, "after it", next.ID)
}

// TestADirectoryIsRemovedAsItIsRead: one whose names do not fit into one buffer.
func TestADirectoryIsRemovedAsItIsRead(t *testing.T) {
	d := diskOf(t, 12<<20, "-b", "1024", "-N", "5000", "-O", "^has_journal")
	d.attach(t)
	defer d.detach(t)
	top := d.mount + "/top"
	for n := range 3000 {
		put(t, top, fmt.Sprintf("%s%04d/", strings.Repeat("n", 100), n), "")
	}
	if err := d.volume.removeTree("top"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(top); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestPowerMayFailAgain: what ends a catch-up that was cut off is itself cut off at every step.
func TestPowerMayFailAgain(t *testing.T) {
	t.Parallel()
	server, far, before, next := history(t)
	old, err := far.Releases()
	if err != nil {
		t.Fatal(err)
	}
	text := packOf(t, server, before, next)
	catchUpUntil(t, far, before, next, text, "new/deep/tree/of/files")
	points, _ := powerCuts(t, far, call{Op: "finish", ID: next.ID}, nil, true, func(v *Volume, when string) {
		bootAfter(t, v, when, old[0], before, next, text)
	}, func(v *Volume) { whole(t, v, "undisturbed", old[0], next.ID) })
	if points < 30 {
		t.Errorf("test bug: only %d points", points)
	}
}

// TestASignedPackThatCannotBeIsRefused: its digest is that of what comes out, as who stole a key
// can have it, and what comes out is no release.
func TestASignedPackThatCannotBeIsRefused(t *testing.T) {
	_, far, before, next := history(t)
	huge := manifest.Entry{Path: "x", Type: 'f', Mode: 0o644, Size: math.MaxInt64}
	again := huge
	again.Path = "y"
	file := manifest.Entry{Path: "dir", Type: 'f', Mode: 0o644, SHA256: sha256.Sum256(nil)}
	below := file
	below.Path = "dir/new"
	for want, changes := range map[string][]manifest.Change{
		"no volume has":     {{How: manifest.Copy, From: "same", Entry: huge}, {How: manifest.Copy, From: "same", Entry: again}},
		"dir no directory":  {{How: manifest.Gone, Entry: manifest.Entry{Path: "dir"}}, {How: manifest.New, Entry: below}},
		"dir no directory ": {{How: manifest.New, Entry: file}, {How: manifest.New, Entry: below}},
	} {
		made, text := signed(t, far, before, next.ID, changes)
		ours := listing(t, far)
		wantError(t, catchUp(t.Context(), far, before, made, bytes.NewReader(text)), strings.TrimSpace(want))
		if now := listing(t, far); now != ours {
			t.Fatalf("%s: the volume was changed:\n%s\nbefore:\n%s", want, now, ours)
		}
	}
}

// TestALargeFileDoesNotOutlastItsContext: it is read in pieces, and ctx ends while it is.
func TestALargeFileDoesNotOutlastItsContext(t *testing.T) {
	server, far := volume(t), volume(t)
	src := source(t, map[string]string{"small": "x"})
	before := publish(t, server, src, 1)
	copyTo(t, server, far)
	put(t, src, "large", strings.Repeat("large", 2<<20))
	next := publish(t, server, src, 2)
	text := bytes.NewReader(packOf(t, server, before, next))
	ctx, cancel := context.WithCancel(t.Context())
	err := catchUp(ctx, far, before, next, readerFunc(func(into []byte) (int, error) {
		if text.Len() < 8<<20 {
			cancel()
		}
		return text.Read(into)
	}))
	if !errors.Is(err, context.Canceled) || text.Len() < 7<<20 {
		t.Errorf("%v, with %d bytes left", err, text.Len())
	}
	whole(t, far, "after it", before.ID)
}
