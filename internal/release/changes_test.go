package release

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"ebs-release/internal/manifest"
	"ebs-release/internal/pack"
)

// TestFromNothingAllIsNew: the pack has every file, with its content.
func TestFromNothingAllIsNew(t *testing.T) {
	server, _, _, next := history(t)
	c, err := server.Changes(t.Context(), "", next.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	var all manifest.Manifest
	for range 2 { // pack.Write goes through them twice
		all = nil
		for change, err := range c.All(t.Context()) {
			if err != nil || change.How != manifest.New {
				t.Fatalf("%+v, %v", change, err)
			}
			all = append(all, change.Entry)
		}
	}
	if _, bytes := all.Size(); all.Digest() != next.Digest || c.Bytes != bytes || c.FromDigest != "" || c.ToDigest != next.Digest {
		t.Errorf("%d changes, %+v", len(all), c)
	}
	var text bytes.Buffer
	if err := pack.Write(t.Context(), &text, pack.Head{To: c.ToDigest, Release: c.To}, c.All(t.Context()), c.Open); err != nil {
		t.Fatal(err)
	}
}

// TestNoEditIsPacked: a file that somebody touched since it was published, with its size and mtime
// as they were, or by what is no file at all. The rest of the release does not matter.
func TestNoEditIsPacked(t *testing.T) {
	for name, try := range map[string]struct {
		do   func(t *testing.T, file string)
		want string
	}{
		"another content": {func(t *testing.T, file string) { secretly(t, file) }, "its content has another sha256"},
		"another size": {func(t *testing.T, file string) {
			if err := os.Truncate(file, 10); err != nil {
				t.Fatal(err)
			}
		}, "it has 10 bytes"},
		"a symlink": {func(t *testing.T, file string) {
			if err := errors.Join(os.Rename(file, file+".aside"), os.Symlink(filepath.Base(file)+".aside", file)); err != nil {
				t.Fatal(err)
			}
		}, "too many levels of symbolic links"},
		"nothing": {func(t *testing.T, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}, "no such file"},
		"a symlink on the way": {func(t *testing.T, file string) {
			dir := filepath.Dir(file)
			if err := errors.Join(os.Rename(dir, dir+".aside"), os.Symlink(filepath.Base(dir)+".aside", dir)); err != nil {
				t.Fatal(err)
			}
		}, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			server, _, before, next := history(t)
			try.do(t, server.Path(next.ID)+"/new/deep/tree/of/files")
			c, err := server.Changes(t.Context(), before.ID, next.ID)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			err = pack.Write(t.Context(), io.Discard, pack.Head{From: c.FromDigest, To: c.ToDigest, Release: c.To}, c.All(t.Context()), c.Open)
			wantError(t, err, next.ID, "new/deep/tree/of/files", "edited in place", try.want)
		})
	}
}

// TestOnlyTheFileWhoseTurnItIsIsOpened: its entry is what it is compared with.
func TestOnlyTheFileWhoseTurnItIsIsOpened(t *testing.T) {
	server, _, before, next := history(t)
	c, err := server.Changes(t.Context(), before.ID, next.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for change, err := range c.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"same", "../../current/same", "/etc/passwd", ""} {
			if file, err := c.Open(path); err == nil {
				t.Errorf("at %s, %s was opened: %v", change.Entry.Path, path, file.Close())
			}
		}
	}
}

// TestReleasesThatAreNotThereAreNotCompared: nothing stays open.
func TestReleasesThatAreNotThereAreNotCompared(t *testing.T) {
	_, far, before, next := history(t)
	for _, ids := range [][2]string{{before.ID, next.ID}, {next.ID, before.ID}, {"", ""}, {"../x", before.ID}, {before.ID, ""}} {
		open, _ := os.ReadDir("/proc/self/fd")
		if _, err := far.Changes(t.Context(), ids[0], ids[1]); err == nil {
			t.Errorf("%q were compared", ids)
		}
		if now, _ := os.ReadDir("/proc/self/fd"); len(now) > len(open) {
			t.Errorf("%q: %d files are open, %d were", ids, len(now), len(open))
		}
	}
}

// TestALinkInPlaceOfAReleaseIsNotFollowed: who owns the volume may put a symlink there; who
// publishes is root.
func TestALinkInPlaceOfAReleaseIsNotFollowed(t *testing.T) {
	server, _, one, two := pair(t)
	outside := t.TempDir()
	copyTo(t, open(t, server.Path(two.ID)), open(t, outside))
	for _, target := range []string{outside, one.ID} {
		remove(t, server.Root(), "releases/"+two.ID)
		if err := os.Symlink(target, server.Path(two.ID)); err != nil {
			t.Fatal(err)
		}
		_, err := server.Changes(t.Context(), one.ID, two.ID)
		wantError(t, err, "releases/"+two.ID)
		wantError(t, server.Verify(t.Context(), two.ID), "release "+two.ID)
	}
}
