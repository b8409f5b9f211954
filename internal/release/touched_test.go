package release

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/gc"
	"ebs-release/internal/manifest"
	"ebs-release/internal/test/scratch"

	"golang.org/x/sys/unix"
)

// secretly edits a file of a release in place, with the same size, mode and mtime, as `cp -p` does:
// only its ctime tells.
func secretly(t *testing.T, file string) {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	content[0] ^= 1
	out, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = out.Write(content)
	if err := errors.Join(err, out.Close(), os.Chtimes(file, info.ModTime(), info.ModTime())); err != nil {
		t.Fatal(err)
	}
}

func TestAnEditWithItsTimeSetBackIsNotShipped(t *testing.T) {
	for name, between := range map[string]func(t *testing.T, server *Volume, edited Ingested){
		"at once": func(*testing.T, *Volume, Ingested) {},
		"after older trees that shared the file were removed": func(t *testing.T, server *Volume, _ Ingested) {
			if gone, err := server.Prune(t.Context(), gc.Wanted{Keep: 1}); err != nil || len(gone) == 0 {
				t.Fatal(gone, err)
			}
		},
		"after a publish that failed": func(t *testing.T, server *Volume, _ Ingested) {
			dir := source(t, first)
			put(t, dir, "more", "x")
			from, err := os.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = from.Close() }()
			seen, err := scan(t.Context(), from, nil)
			if err != nil {
				t.Fatal(err)
			}
			put(t, dir, "more", "y")
			if err := unchanged(t.Context(), from, seen); err == nil {
				t.Fatal("not seen")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := volume(t)
			dir := source(t, first)
			publish(t, server, dir, 1)
			put(t, dir, "etc/conf", "colour=green\n")
			two := publish(t, server, dir, 2)
			secretly(t, server.Path(two.ID)+"/etc/same")
			between(t, server, two)
			wantError(t, server.Untouched(t.Context(), two.ID), "edited in place", "etc/same")
			put(t, dir, "etc/conf", "colour=blue\n")
			three := publish(t, server, dir, 3)
			same(t, dir, server.Path(three.ID))
			if err := errors.Join(server.Verify(t.Context(), three.ID), server.Untouched(t.Context(), three.ID)); err != nil {
				t.Error(err)
			}
			wantError(t, server.Untouched(t.Context(), two.ID), "etc/same") // the next publish has not hidden it
			// The same source as the edited release is made anew.
			put(t, dir, "etc/conf", "colour=green\n")
			four := publish(t, server, dir, 4)
			if four.Reused {
				t.Error("the edited release was taken for what it should be")
			}
			same(t, dir, server.Path(four.ID))
		})
	}
}

func TestWhatNobodyTouchedIsNotReadAgain(t *testing.T) {
	server := volume(t)
	dir := source(t, first)
	one := publish(t, server, dir, 1)
	for i := int64(2); i < 6; i++ {
		put(t, dir, "etc/conf", strings.Repeat("x", int(i)))
		publish(t, server, dir, i)
		if _, err := server.Prune(t.Context(), gc.Wanted{Keep: 2, Held: map[string]string{one.ID: "i-1"}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{one.ID, filepath.Base(must(os.Readlink(server.Root() + "/current")))} {
		held, err := server.openTree(id)
		if err != nil {
			t.Fatal(err)
		}
		err = look(t.Context(), held.dir, held.manifest, func(_ int, _ string, e *manifest.Entry, st *unix.Stat_t) error {
			if !held.ours(e, st) {
				t.Errorf("%s: %s would be read again", id, e.Path)
			}
			return nil
		})
		held.close()
		if err != nil {
			t.Error(err)
		}
	}
}

func must(s string, err error) string {
	if err != nil {
		panic(err)
	}
	return s
}

// The list may be lost, or never have been there, as on the volume of an older version.
func TestWithoutTheListAllIsHashedAndNothingIsLost(t *testing.T) {
	server := volume(t)
	dir := source(t, first)
	one := publish(t, server, dir, 1)
	remove(t, server.Root(), spansPath)
	if err := server.Untouched(t.Context(), one.ID); err != nil {
		t.Error(err)
	}
	secretly(t, server.Path(one.ID)+"/bin/run")
	put(t, dir, "etc/conf", "colour=green\n")
	two := publish(t, server, dir, 2)
	same(t, dir, server.Path(two.ID))
	if inode(t, server.Path(one.ID)+"/etc/same") != inode(t, server.Path(two.ID)+"/etc/same") {
		t.Error("what is right was not linked")
	}
	wantError(t, server.Untouched(t.Context(), one.ID), "bin/run")
}

func TestAttributesAreNotInherited(t *testing.T) {
	server := volume(t)
	dir := source(t, first)
	one := publish(t, server, dir, 1)
	if err := unix.Setxattr(server.Path(one.ID)+"/etc/same", "user.odd", []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	wantError(t, server.Untouched(t.Context(), one.ID), "etc/same", "attributes")
	put(t, dir, "etc/conf", "colour=green\n")
	two := publish(t, server, dir, 2)
	if n, err := unix.Listxattr(server.Path(two.ID)+"/etc/same", make([]byte, 100)); n != 0 {
		t.Errorf("%d bytes of attributes, %v", n, err)
	}
}

// volumeOf is a release volume of that many MiB.
func volumeOf(t *testing.T, mib int64) *Volume {
	t.Helper()
	dir := t.TempDir()
	scratch.Mount(t, scratch.Disk(t, mib<<20, "mkfs.ext4", "-q", "-m", "0"), dir, "ext4", 0, "")
	tree := open(t, dir)
	if err := tree.Init(ordinary, ordinary); err != nil {
		t.Fatal(err)
	}
	return tree
}

// Releases of 30 % of the volume: the fourth fits, as the oldest goes; a third one fits only when
// nothing is kept for a rollback.
func TestRoomIsMadeBeforeAPublishIsRefused(t *testing.T) {
	server, far := volumeOf(t, 64), volumeOf(t, 64)
	var before Ingested
	release := func(i, megabytes int, wanted gc.Wanted) (in Ingested, err error) {
		dir := source(t, map[string]string{"big": strings.Repeat(string(rune('a'+i)), megabytes<<20)})
		return server.Ingest(t.Context(), dir, second.Add(time.Duration(i)*time.Second), wanted)
	}
	for i := range 5 {
		in, err := release(i, 15, gc.Wanted{Keep: 5})
		if err != nil {
			t.Fatalf("publish %d: %v", i, err)
		}
		if err := catchUpBeside(t.Context(), far, before, in, bytes.NewReader(packOf(t, server, before, in)), 5); err != nil {
			t.Fatalf("push %d: %v", i, err)
		}
		for _, tree := range []*Volume{server, far} {
			err = errors.Join(err, tree.Activate(t.Context(), in.ID, in.Digest, int64(i+1)), tree.Verify(t.Context(), in.ID))
		}
		if err != nil {
			t.Fatal(err)
		}
		before = in
	}
	for _, tree := range []*Volume{server, far} {
		if ids, err := tree.Releases(); err != nil || len(ids) != 3 {
			t.Errorf("%v, %v", ids, err)
		}
	}
	_, err := release(6, 25, gc.Wanted{Keep: 2})
	wantError(t, err, "no space left on device", before.ID+" (current)", "(what a rollback needs)", "--keep 1")
	if ids, err := server.Releases(); err != nil || len(ids) != 2 {
		t.Errorf("%v, %v", ids, err)
	}
	if _, err = release(6, 25, gc.Wanted{Keep: 1}); err != nil {
		t.Error(err)
	}
}

// What members would refuse to read is refused before anything is shipped, and a file of any size
// in the place of a manifest is not read.
func TestAManifestIsBounded(t *testing.T) {
	if err := errors.Join(manifest.CheckSize(manifest.MaxEntries, 1), manifest.CheckSize(1, manifest.MaxSize)); err != nil {
		t.Error(err)
	}
	wantError(t, manifest.CheckSize(manifest.MaxEntries+1, 1), "4000001 files", "at most 4000000")
	wantError(t, manifest.CheckSize(1, manifest.MaxSize+1), "at most 4000000, and 512.0 MiB")
	tree := volume(t)
	one := publish(t, tree, source(t, first), 1)
	if err := os.Truncate(tree.Root()+"/"+stateDir+"/"+one.ID+manifestExt, manifest.MaxSize+1); err != nil {
		t.Fatal(err)
	}
	_, err := tree.Manifest(one.ID)
	wantError(t, err, "want at most 536870912")
	_, err = tree.ManifestDigest(one.ID)
	wantError(t, err, "want at most 536870912")
}
