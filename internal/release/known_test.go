package release

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ebs-release/internal/gc"
	"ebs-release/internal/manifest"
	"ebs-release/internal/test/scratch"

	"golang.org/x/sys/unix"
)

// settled makes a SOURCE on an ext4 disk of its own, and waits until what is done from now on is
// told by its ctime.
func settled(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	disk := newDisk(t)
	disk.attach(t)
	t.Cleanup(func() { _ = disk.volume.Close() })
	dir = filepath.Join(disk.mount, "source")
	for name, content := range files {
		put(t, dir, name, content)
	}
	wait(t)
	return dir
}

func wait(t *testing.T) {
	t.Helper()
	if _, err := justNow(); err != nil {
		t.Fatal(err)
	}
}

// unread scans SOURCE, and returns the files that were not read because they are known. It changes
// what is known of them to what they are not, and so sees where they come from.
func unread(t *testing.T, v *Volume, dir string) (paths []string) {
	t.Helper()
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	k := v.knownOf(root, false)
	if k == nil {
		return nil
	}
	const wrong = "0123456789abcdef0123456789abcdef"
	for at := 0; at < len(k.sorted); at += sizeOfKnown {
		copy(k.sorted[at+sizeOfMark:], wrong)
	}
	seen, err := scan(t.Context(), root, k)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range seen {
		if string(s.SHA256[:]) == wrong {
			paths = append(paths, s.Path)
		}
	}
	return paths
}

func write(t *testing.T, path, content string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = file.WriteString(content)
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// mapped maps a file, shared and to be written to, and closes it.
func mapped(t *testing.T, path string) []byte {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	memory, err := unix.Mmap(int(file.Fd()), 0, 4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(memory) })
	return memory
}

// Whatever is done to a file of SOURCE, what is released is what it is. All of this leaves size and
// mtime as they were.
func TestWhatChangedIsReadAgain(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, dir, file string){
		"written":                 func(t *testing.T, _, file string) { write(t, file, "new.") },
		"written by a mapping":    func(t *testing.T, _, file string) { copy(mapped(t, file), "new.") },
		"written by another name": func(t *testing.T, dir, _ string) { write(t, dir+"/../name", "new.") },
		"read by a mapping, and written": func(t *testing.T, _, file string) {
			if memory := mapped(t, file); string(memory) == "old." {
				copy(memory, "new.")
			}
		},
		"replaced": func(t *testing.T, dir, file string) {
			put(t, dir, "../new", "new.")
			if err := os.Rename(dir+"/../new", file); err != nil {
				t.Fatal(err)
			}
		},
		"removed and made": func(t *testing.T, dir, file string) {
			remove(t, file, "")
			put(t, dir, "sub/changes", "new.")
		},
		"another directory": func(t *testing.T, dir, _ string) {
			if err := os.Rename(dir+"/sub", dir+"/../sub"); err != nil {
				t.Fatal(err)
			}
			put(t, dir, "sub/changes", "new.")
		},
		"another disk": func(t *testing.T, dir, _ string) {
			other := settled(t, map[string]string{"sub/changes": "new.", "stays": "same"})
			scratch.Mount(t, other, dir, "", unix.MS_BIND, "")
		},
		"a disk below": func(t *testing.T, dir, _ string) {
			other := settled(t, map[string]string{"changes": "new."})
			scratch.Mount(t, other, dir+"/sub", "", unix.MS_BIND, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			v, dir := volume(t), settled(t, map[string]string{"sub/changes": "old.", "stays": "same", "../name": "none"})
			file := dir + "/sub/changes"
			remove(t, dir, "../name")
			if err := os.Link(file, dir+"/../name"); err != nil {
				t.Fatal(err)
			}
			wait(t)
			one := publish(t, v, dir, 1)
			if known := unread(t, v, dir); !slices.Equal(known, []string{"stays", "sub/changes"}) {
				t.Fatalf("known is %q", known)
			}
			before, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			change(t, dir, file)
			if err := os.Chtimes(file, before.ModTime(), before.ModTime()); err != nil {
				t.Fatal(err)
			}
			if known := unread(t, v, dir); slices.Contains(known, "sub/changes") {
				t.Error("what changed is taken for known")
			}
			two := publish(t, v, dir, 2)
			if got, err := os.ReadFile(v.Path(two.ID) + "/sub/changes"); err != nil || string(got) != "new." || two.ID == one.ID {
				t.Errorf("%q, %v was released", got, err)
			}
			same(t, dir, v.Path(two.ID))
		})
	}
}

// What changes a file without moving its ctime began before it was read.
func TestWhatIsBeingWrittenIsNotRemembered(t *testing.T) {
	v, dir := volume(t), settled(t, map[string]string{"mapped": "old.", "open": "old.", "stays": "same"})
	memory := mapped(t, dir+"/mapped")
	copy(memory, "mid.")
	file, err := os.OpenFile(dir+"/open", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	wait(t)
	publish(t, v, dir, 1)
	var before, after unix.Stat_t
	err = unix.Stat(dir+"/mapped", &before)
	copy(memory, "new.")
	if err = errors.Join(err, unix.Stat(dir+"/mapped", &after)); err != nil || before.Ctim != after.Ctim {
		t.Fatalf("test bug: %v, ctime moved from %v to %v", err, before.Ctim, after.Ctim)
	}
	if known := unread(t, v, dir); !slices.Equal(known, []string{"stays"}) {
		t.Errorf("known is %q", known)
	}
	two := publish(t, v, dir, 2)
	if got, err := os.ReadFile(v.Path(two.ID) + "/mapped"); err != nil || string(got) != "new." {
		t.Errorf("%q, %v was released", got, err)
	}
}

// A file that may be changed with the ctime that it has is not remembered.
func TestRacyTimesAreNotRemembered(t *testing.T) {
	dir := settled(t, map[string]string{"a": "a"})
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	file, err := os.Open(dir + "/a")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	k := volume(t).knownOf(root, false)
	before, after := k.began, k.began
	before.Sec, after.Sec = before.Sec-1, after.Sec+1
	before.Nsec = 1
	for _, c := range []struct {
		changed unix.Timespec
		device  uint64
		want    bool
	}{
		{before, k.on.device, true}, {k.began, k.on.device, false}, {after, k.on.device, false}, {before, k.on.device + 1, false},
		{unix.Timespec{Sec: before.Sec}, k.on.device, false},
	} {
		if got := k.settles(&scanned{device: c.device, changed: c.changed}, file); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// What is the same stays known when it moves with its directory, has another name by a mount, or
// was published with --full; and what a release does not carry of it is told again.
func TestWhatStayedIsNotReadAgain(t *testing.T) {
	v, dir := volume(t), settled(t, map[string]string{"sub/a": "a", "b": "b"})
	if err := unix.Setxattr(dir+"/sub/a", "user.origin", []byte("here"), 0); err != nil {
		t.Fatal(err)
	}
	wait(t)
	one := publish(t, v, dir, 1)
	if err := os.Rename(dir+"/sub", dir+"/moved"); err != nil {
		t.Fatal(err)
	}
	bound := t.TempDir()
	scratch.Mount(t, dir, bound, "", unix.MS_BIND, "")
	for _, at := range []string{dir, bound} {
		if known := unread(t, v, at); !slices.Equal(known, []string{"b", "moved/a"}) {
			t.Errorf("%s: known is %q", at, known)
		}
	}
	two := publish(t, v, bound, 2)
	if len(two.LeftBehind) != 1 || len(one.LeftBehind) != 1 || !strings.Contains(two.LeftBehind[0], "extended attributes: moved/a has them") {
		t.Errorf("%q, %q", one.LeftBehind, two.LeftBehind)
	}
	if err := v.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	if known := unread(t, v, dir); known != nil {
		t.Errorf("forgotten, known is %q", known)
	}
	publish(t, v, dir, 3)
	if known := unread(t, v, dir); !slices.Equal(known, []string{"b", "moved/a"}) {
		t.Errorf("known is %q", known)
	}
}

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
