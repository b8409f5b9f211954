package release

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

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

// A file with one mark that is another is another file.
func TestEachMarkTells(t *testing.T) {
	v, dir := volume(t), settled(t, map[string]string{"a": "a"})
	publish(t, v, dir, 1)
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	k := v.knownOf(root, false)
	seen, err := scan(t.Context(), root, k)
	if err != nil || len(seen) != 1 || !k.tell(seen[0]) {
		t.Fatalf("%v, %v", seen, err)
	}
	for name, change := range map[string]func(*scanned){
		"device":          func(s *scanned) { s.device++ },
		"inode":           func(s *scanned) { s.inode++ },
		"size":            func(s *scanned) { s.size++ },
		"mtime":           func(s *scanned) { s.modified.Sec++ },
		"part of a mtime": func(s *scanned) { s.modified.Nsec++ },
		"ctime":           func(s *scanned) { s.changed.Sec++ },
		"part of a ctime": func(s *scanned) { s.changed.Nsec++ },
	} {
		other := *seen[0]
		if change(&other); k.tell(&other) {
			t.Errorf("%s: it is known", name)
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
