package release

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ebs-release/internal/gc"
	"ebs-release/internal/manifest"
	"ebs-release/internal/test/scratch"

	"golang.org/x/sys/unix"
)

func TestADryRunRemembersNothing(t *testing.T) {
	v, dir := volume(t), settled(t, map[string]string{"a": "a"})
	look := func(all bool) manifest.Manifest {
		m, err := v.ScanOver(t.Context(), dir, nil, second, all)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	look(false)
	if _, err := os.Stat(filepath.Join(v.Root(), knownPath)); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	publish(t, v, dir, 1)
	path := filepath.Join(v.Root(), knownPath)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-sha256.Size-2] ^= 1 // of the last file's sha256: what is known shows
	sum := sha256.Sum256(data[:len(data)-sha256.Size])
	copy(data[len(data)-sha256.Size:], sum[:])
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if known, read := look(false), look(true); known.Digest() == read.Digest() {
		t.Error("a dry run reads what is known, or not with --full")
	}
	// A publish that meets it copies something else, says so, and forgets all.
	if err := v.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = v.Ingest(t.Context(), dir, second, gc.Wanted{})
	if !errors.Is(err, ErrChanged) || unread(t, v, dir) != nil {
		t.Errorf("%v", err)
	}
	publish(t, v, dir, 2)
}

// What is known elsewhere, or was damaged, is not known.
func TestKnownIsOnlyWhatWeWroteHere(t *testing.T) {
	v, dir := volume(t), settled(t, map[string]string{"a": "a", "b": "b"})
	path := filepath.Join(v.Root(), knownPath)
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	at, err := fileSystemOf(root)
	if err != nil {
		t.Fatal(err)
	}
	publish(t, v, dir, 1)
	good, err := os.ReadFile(path)
	if info, statErr := os.Stat(path); err != nil || statErr != nil || info.Mode() != 0o600 {
		t.Fatalf("%v, %v, %v", err, statErr, info.Mode())
	}
	const both = 2 * sizeOfKnown
	files := good[len(good)-sha256.Size-both:][:both]
	written := func(line string, files []byte) {
		data := append([]byte(line), files...)
		sum := sha256.Sum256(data)
		if err := errors.Join(os.RemoveAll(path), os.WriteFile(path, append(data, sum[:]...), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	other := func(change func(*fileSystem)) func() {
		is := at
		change(&is)
		return func() { written(is.line(), files) }
	}
	for name, spoil := range map[string]func(){
		"another boot":     other(func(f *fileSystem) { f.boot = "00000000-0000-0000-0000-000000000000" }),
		"another device":   other(func(f *fileSystem) { f.device++ }),
		"another id":       other(func(f *fileSystem) { f.id[1]++ }),
		"clock set back":   other(func(f *fileSystem) { f.clock += 1e9 }),
		"clock set":        other(func(f *fileSystem) { f.clock -= 1e9 }),
		"clock far away":   other(func(f *fileSystem) { f.clock = -1 << 63 }),
		"another format":   func() { written(strings.Replace(at.line(), "known 1", "known 2", 1), files) },
		"half a file":      func() { written(at.line(), files[1:]) },
		"no line":          func() { written("", nil) },
		"empty":            func() { _ = os.WriteFile(path, nil, 0o600) },
		"damaged":          func() { _ = os.WriteFile(path, append([]byte{good[0] ^ 1}, good[1:]...), 0o600) },
		"cut off":          func() { _ = os.WriteFile(path, good[:len(good)-1], 0o600) },
		"another user's":   func() { _ = os.Chown(path, ordinary, ordinary) },
		"others may write": func() { _ = os.Chmod(path, 0o622) },
		"a fifo":           func() { _ = errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)) },
		"a link":           func() { _ = errors.Join(os.Rename(path, path+"2"), os.Symlink(path+"2", path)) },
	} {
		t.Run(name, func(t *testing.T) {
			written(at.line(), files)
			if known := unread(t, v, dir); len(known) != 2 {
				t.Fatalf("test bug: known is %q", known)
			}
			spoil()
			if known := unread(t, v, dir); known != nil {
				t.Errorf("known is %q", known)
			}
			if _, err := v.Ingest(t.Context(), dir, second, gc.Wanted{}); err != nil {
				t.Error(err)
			}
			if known := unread(t, v, dir); len(known) != 2 {
				t.Errorf("afterwards known is %q", known)
			}
		})
	}
}

func TestNothingIsRememberedOfOtherFileSystems(t *testing.T) {
	lower, tmp, over := t.TempDir(), t.TempDir(), t.TempDir()
	scratch.Mount(t, "tmpfs", tmp, "tmpfs", 0, "")
	put(t, lower, "a", "a")
	for _, dir := range []string{"upper", "work", "source"} {
		put(t, tmp, dir+"/", "")
	}
	put(t, tmp, "source/a", "a")
	scratch.Mount(t, "overlay", over, "overlay", 0, "lowerdir="+lower+",upperdir="+tmp+"/upper,workdir="+tmp+"/work")
	wait(t)
	for _, dir := range []string{tmp + "/source", over} {
		v := volume(t)
		publish(t, v, dir, 1)
		if _, err := os.Stat(filepath.Join(v.Root(), knownPath)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}
