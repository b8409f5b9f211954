package release

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ebs-release/internal/gc"
	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

// The first release of these tests, and what the second makes of it.
var first = map[string]string{
	"0755 bin/run":       "#!/bin/sh\n",
	"etc/conf":           "colour=red\n",
	"etc/same":           "the same\n",
	"lib/becomes-dir":    "file",
	"lib/becomes-link":   "file",
	"dir-to-file/x":      "x",
	"dir-to-link/x":      "x",
	"link -> etc/conf":   "",
	"out -> /etc/hosts":  "",
	"gone/deep/file":     "gone",
	"moved/here":         "moved content",
	"empty/":             "",
	"mode":               "mode",
	"new\nline \xff\xfe": "odd",
	"--delete":           "not an option",
	"#comment":           "not a comment",
	"dangling -> none":   "",
	"loop -> .":          "",
}

func second2(t *testing.T, dir string) {
	t.Helper()
	conf := filepath.Join(dir, "etc/conf")
	info, err := os.Stat(conf)
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, "etc/conf", "colour=sad\n")                                  // the same size ...
	if err := os.Chtimes(conf, info.ModTime(), info.ModTime()); err != nil { // ... and the same second
		t.Fatal(err)
	}
	for _, name := range []string{"lib/becomes-dir", "lib/becomes-link", "dir-to-file", "dir-to-link", "gone", "link", "loop"} {
		remove(t, dir, name)
	}
	put(t, dir, "lib/becomes-dir/x", "x")
	put(t, dir, "lib/becomes-link -> ../etc", "")
	put(t, dir, "dir-to-file", "file")
	put(t, dir, "dir-to-link -> etc", "")
	put(t, dir, "link -> etc/same", "")
	put(t, dir, "loop/file", "file")
	put(t, dir, "0600 mode", "mode")
	if err := os.Rename(dir+"/moved", dir+"/moved2"); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "0444 sealed/file", "sealed")
	if err := os.Chmod(dir+"/sealed", 0o555); err != nil {
		t.Fatal(err)
	}
}

func TestIngestShipsTheTreeAndLinksWhatStayed(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	tree := volume(t)
	dir := source(t, first)
	one := publish(t, tree, dir, 1)
	same(t, dir, tree.Path(one.ID))
	if one.Previous != "" || one.Files != 13 || one.CopiedFiles != 13 || one.ID[17:] != one.Digest[:12] {
		t.Fatalf("%+v", one)
	}
	before, err := Scan(t.Context(), tree.Path(one.ID))
	if err != nil {
		t.Fatal(err)
	}
	mode := inode(t, tree.Path(one.ID)+"/mode")

	second2(t, dir)
	two := publish(t, tree, dir, 2)
	same(t, dir, tree.Path(two.ID))
	if two.Previous != one.ID || two.CopiedFiles != 3 {
		t.Fatalf("%+v", two)
	}
	for name, linked := range map[string]bool{"bin/run": true, "etc/same": true, "etc/conf": false, "mode": false, "new\nline \xff\xfe": true} {
		if got := inode(t, tree.Path(one.ID)+"/"+name) == inode(t, tree.Path(two.ID)+"/"+name); got != linked {
			t.Errorf("%q linked: %v, want %v", name, got, linked)
		}
	}
	if inode(t, tree.Path(one.ID)+"/moved/here") != inode(t, tree.Path(two.ID)+"/moved2/here") {
		t.Error("a file that was moved was copied")
	}
	// The first release is as it was.
	after, err := Scan(t.Context(), tree.Path(one.ID))
	if err != nil || after.Digest() != before.Digest() || inode(t, tree.Path(one.ID)+"/mode") != mode {
		t.Fatalf("the release before changed: %v, %+v", err, manifest.Diff(before, after))
	}
	for _, id := range []string{one.ID, two.ID} {
		if err := tree.Verify(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
}

func TestIngestedTreeBelongsToItsOwner(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	tree := volume(t)
	dir := source(t, first)
	put(t, dir, "4755 set-id", "x")
	one := publish(t, tree, dir, 1)
	info, err := os.Stat(tree.Path(one.ID))
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Fatalf("root of the release: %v, %v", info.Mode(), err)
	}
	for line := range strings.Lines(listing(t, tree)) {
		if !strings.Contains(line, fmt.Sprintf(" %d ", ordinary)) {
			t.Errorf("not the owner's: %s", line)
		}
	}
	// And the owner can go on from there.
	be(t, call{Op: "verify", Root: tree.Root(), ID: one.ID}, "")
	be(t, call{Op: "activate", Root: tree.Root(), ID: one.ID, Digest: one.Digest, Generation: 2}, "")
}

func TestIngestOfTheSameTreeReusesTheRelease(t *testing.T) {
	tree := volume(t)
	dir := source(t, first)
	one := publish(t, tree, dir, 1)
	before := listing(t, tree)
	again, err := tree.Ingest(t.Context(), dir, second.Add(time.Hour), gc.Wanted{})
	if err != nil || again.ID != one.ID || !again.Reused || again.Files != one.Files || listing(t, tree) != before || again.Changes != (manifest.Changes{}) {
		t.Fatalf("%+v, %v", again, err)
	}
	// From the volume itself, too.
	fromVolume, err := tree.Ingest(t.Context(), filepath.Join(tree.Root(), "current"), second, gc.Wanted{})
	if err != nil || fromVolume.ID != one.ID {
		t.Fatalf("%+v, %v", fromVolume, err)
	}
}

// What is back is another release than the current one: the changes are from there.
func TestIngestOfAnOlderTreeSaysWhatChanges(t *testing.T) {
	tree, dir := volume(t), source(t, first)
	for _, name := range []string{"etc/conf", "gone/deep/file"} { // a time to come would be that of each publish
		if err := os.Chtimes(filepath.Join(dir, name), time.Time{}, time.Unix(1e9, 0)); err != nil {
			t.Fatal(err)
		}
	}
	one := publish(t, tree, dir, 1)
	other := source(t, first)
	put(t, other, "etc/conf", "colour=blue\n")
	put(t, other, "etc/new", "new")
	put(t, other, "new/one", "new")
	remove(t, other, "gone/deep/file")
	two, err := tree.Ingest(t.Context(), other, second, gc.Wanted{Keep: 3})
	if want := (manifest.Changes{Added: 2, Changed: 1, Removed: 1}); err != nil || two.Changes != want {
		t.Fatalf("%+v, %v; want %v", two, err, want)
	}
	if err := tree.Activate(t.Context(), two.ID, two.Digest, 2); err != nil {
		t.Fatal(err)
	}
	back, err := tree.Ingest(t.Context(), dir, second.Add(time.Hour), gc.Wanted{Keep: 3})
	if want := (manifest.Changes{Added: 1, Changed: 1, Removed: 2}); err != nil || back.ID != one.ID || !back.Reused || back.Changes != want {
		t.Fatalf("%+v, %v; want %v", back, err, want)
	}
}

// A hot fix by hand on the release server, in the release itself, must not go out under the name of
// what SOURCE says.
func TestIngestOfTheSameTreeMakesItAnewWhenTheReleaseWasEdited(t *testing.T) {
	for what, edit := range map[string]func(t *testing.T, release string){
		// The same size: only the file's time tells.
		"content": func(t *testing.T, release string) { put(t, release, "etc/conf", "colour=sad\n") },
		"mode":    func(t *testing.T, release string) { put(t, release, "0600 etc/conf", "colour=red\n") },
		"missing": func(t *testing.T, release string) { remove(t, release, "etc/conf") },
		"added":   func(t *testing.T, release string) { put(t, release, "core", "core") },
		"target": func(t *testing.T, release string) {
			remove(t, release, "link")
			put(t, release, "link -> etc/same", "")
		},
	} {
		t.Run(what, func(t *testing.T) {
			tree := volume(t)
			dir := source(t, first)
			one := publish(t, tree, dir, 1)
			edit(t, tree.Path(one.ID))
			two := publish(t, tree, dir, 2)
			if two.ID == one.ID || two.Reused || two.Digest != one.Digest {
				t.Fatalf("%+v after %+v", two, one)
			}
			same(t, dir, tree.Path(two.ID))
			if err := tree.Verify(t.Context(), two.ID); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestIngestOfATreeOfHardLinksToTheCurrentRelease(t *testing.T) {
	tree := volume(t)
	one := publish(t, tree, source(t, first), 1)
	dir := filepath.Join(tree.Root(), "work")
	if out, err := exec.CommandContext(t.Context(), "cp", "-al", tree.Path(one.ID), dir).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	put(t, dir, "new", "new")
	two := publish(t, tree, dir, 2)
	same(t, dir, tree.Path(two.ID))
}

func TestIngestRefusesWhatCannotBeShippedByName(t *testing.T) {
	for _, tc := range []struct {
		name string
		make func(t *testing.T, dir string)
		want string
	}{
		{"fifo", func(t *testing.T, dir string) { _ = unix.Mkfifo(dir+"/sub/pi\npe", 0o644) }, `"sub/pi\npe" is a fifo`},
		{"socket", func(t *testing.T, dir string) {
			l, err := net.Listen("unix", dir+"/sub/sock")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
		}, "sub/sock is a socket"},
		{"device", func(t *testing.T, dir string) { _ = unix.Mknod(dir+"/sub/null", unix.S_IFCHR|0o644, 259) }, "sub/null is a device"},
		{"unreadable file", func(t *testing.T, dir string) { put(t, dir, "0000 sub/secret", "x") }, "sub/secret: a file of mode 0000 cannot be read"},
		{"closed directory", func(t *testing.T, dir string) { _ = os.Chmod(dir+"/sub", 0o400) }, "sub: a directory of mode 0400"},
		{"path too long", func(t *testing.T, dir string) {
			// Longer than one system call takes: step by step.
			at, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			for range 17 {
				name := strings.Repeat("d", 240)
				if err := at.Mkdir(name, 0o755); err != nil {
					t.Fatal(err)
				}
				below, err := at.OpenRoot(name)
				if err != nil {
					t.Fatal(err)
				}
				_ = at.Close()
				at = below
			}
			_ = at.Close()
		}, "a path of more than 3840 bytes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tree := volume(t)
			publish(t, tree, source(t, map[string]string{"a": "1"}), 1)
			before := listing(t, tree)
			dir := source(t, map[string]string{"a": "2", "sub/b": "x"})
			tc.make(t, dir)
			_, err := tree.Ingest(t.Context(), dir, second, gc.Wanted{})
			wantError(t, err, dir, tc.want)
			if listing(t, tree) != before {
				t.Fatal("the volume changed")
			}
		})
	}
}

func TestIngestRefusesSourcesThatCannotBeMeant(t *testing.T) {
	tree := volume(t)
	file := filepath.Join(source(t, map[string]string{"f": ""}), "f")
	for name, tc := range map[string]struct{ source, want string }{
		"missing":                 {file + "-not", "no such file or directory"},
		"a file":                  {file, "it is not a directory"},
		"empty":                   {t.TempDir(), "there are no files in it"},
		"only directories":        {source(t, map[string]string{"a/b/": ""}), "there are no files in it"},
		"the volume":              {tree.Root(), "it holds the release volume"},
		"a directory above":       {"/", "it holds the release volume"},
		"a remote one, no server": {"rsync://127.0.0.1:1/x", "rsync from there: rsync: [Receiver] failed to connect"},
	} {
		t.Run(name, func(t *testing.T) {
			before := listing(t, tree)
			_, err := tree.Ingest(t.Context(), tc.source, second, gc.Wanted{})
			wantError(t, err, tc.source, tc.want)
			if got := listing(t, tree); got != before {
				t.Fatalf("the volume changed:\n%s%s", before, got)
			}
		})
	}
	// A symlink to a directory is meant: /srv/app/current.
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(source(t, first), link); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Ingest(t.Context(), link, second, gc.Wanted{}); err != nil {
		t.Fatal(err)
	}
}

func TestSourceThatChangesIsNoticed(t *testing.T) {
	for name, change := range map[string]func(dir string){
		"written":        func(dir string) { put(t, dir, "etc/conf", "colour=sad\n") },
		"mode":           func(dir string) { put(t, dir, "0600 etc/conf", "colour=red\n") },
		"directory mode": func(dir string) { _ = os.Chmod(dir+"/etc", 0o700) },
		"new":            func(dir string) { put(t, dir, "zzz", "") },
		"gone":           func(dir string) { remove(t, dir, "out") },
		"replaced":       func(dir string) { remove(t, dir, "etc/same"); put(t, dir, "etc/same", "the same\n") },
		"now a symlink":  func(dir string) { remove(t, dir, "etc"); put(t, dir, "etc -> /etc", "") },
	} {
		t.Run(name, func(t *testing.T) {
			dir := source(t, first)
			root, err := os.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = root.Close() }()
			seen, err := scan(t.Context(), root, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := unchanged(t.Context(), root, seen); err != nil {
				t.Fatal(err)
			}
			change(dir)
			if err := unchanged(t.Context(), root, seen); !errors.Is(err, ErrChanged) {
				t.Fatalf("not noticed: %v", err)
			}
		})
	}
}

// What is copied is what counts: content that changes between the first look and the copy must not
// get in under the old sum.
func TestCopyOfAChangedFileIsRefused(t *testing.T) {
	tree := volume(t)
	dir := source(t, map[string]string{"a": "1"})
	m, err := Scan(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, "a", "2")
	from, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = from.Close() }()
	in := Ingested{ID: manifest.NewID(second, m.Digest()), Digest: m.Digest()}
	a := &assembly{entries: entriesOf(m, plan(nil, m)), copies: from, copyAs: func(w planned) (string, bool) { return w.entry.Path, true }}
	err = tree.take(t.Context(), in, m.Text(), a, gc.Wanted{}, func() error { return nil })
	if !errors.Is(err, ErrChanged) {
		t.Fatalf("got %v", err)
	}
	wantError(t, err, "write a")
}

func TestAVolumeWithoutInodesIsNotCalledFull(t *testing.T) {
	tree := small(t, 4096)
	publish(t, tree, source(t, map[string]string{"a": "1"}), 1)
	if err := unix.Mount("tmpfs", tree.Root(), "tmpfs", unix.MS_REMOUNT, "nr_inodes=60"); err != nil {
		t.Fatal(err)
	}
	before := listing(t, tree)
	many := map[string]string{}
	for i := range 100 {
		many[fmt.Sprint("f", i)] = fmt.Sprint(i)
	}
	_, err := tree.Ingest(t.Context(), source(t, many), second, gc.Wanted{})
	wantError(t, err, "all 60 inodes are in use", "although bytes are free", "Try: keep fewer releases")
	if !errors.Is(err, unix.ENOSPC) || listing(t, tree) != before {
		t.Errorf("%v, or the volume changed", err)
	}
}

func TestFullVolumeIsAClearErrorAndChangesNothing(t *testing.T) {
	tree := small(t, 1024)
	publish(t, tree, source(t, map[string]string{"a": "1"}), 1)
	before := listing(t, tree)
	_, err := tree.Ingest(t.Context(), source(t, map[string]string{"big": strings.Repeat("x", 2<<20)}), second, gc.Wanted{})
	wantError(t, err, tree.Root(), "KiB free, the release needs 2.0 MiB more", "no space left on device")
	if listing(t, tree) != before {
		t.Fatal("the volume changed")
	}
	// What the free space does not tell: many small files take a page each.
	many := map[string]string{}
	for i := range 400 {
		many[fmt.Sprint("f", i)] = fmt.Sprint(i)
	}
	_, err = tree.Ingest(t.Context(), source(t, many), second, gc.Wanted{})
	wantError(t, err, "no space left on device")
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if after := listing(t, tree); after != before {
		t.Fatalf("the volume changed:\n%s\n%s", before, after)
	}
}

func TestIngestClearsWhatACrashLeftBehind(t *testing.T) {
	tree := volume(t)
	dir := source(t, first)
	in := publish(t, tree, dir, 1)
	put(t, tree.Root(), "releases/20260101T000000Z-000000000000.partial/sub/x", "x")
	put(t, tree.Root(), "releases/"+in.ID+".partial/x", "x")
	put(t, tree.Root(), ".ebs-release/.generation123", "x")
	put(t, dir, "more", "more")
	publish(t, tree, dir, 2)
	left := listing(t, tree)
	for _, word := range []string{".partial", ".generation1"} {
		if strings.Contains(left, word) {
			t.Errorf("%s is still there", word)
		}
	}
}

func TestIngestEndsWithItsContext(t *testing.T) {
	tree := volume(t)
	before := listing(t, tree)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tree.Ingest(ctx, source(t, first), second, gc.Wanted{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if listing(t, tree) != before {
		t.Fatal("the volume changed")
	}
}

func TestIngestFromAnRsyncServer(t *testing.T) {
	tree := volume(t)
	dir := source(t, first)
	one := publish(t, tree, dir, 1)
	second2(t, dir)

	from := rsyncServer(t, dir)
	two, err := tree.Ingest(t.Context(), from+"/tree", second.Add(time.Minute), gc.Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	same(t, dir, tree.Path(two.ID))
	if two.CopiedFiles != 3 || inode(t, tree.Path(one.ID)+"/bin/run") != inode(t, tree.Path(two.ID)+"/bin/run") {
		t.Fatalf("%+v", two)
	}
	notThere(t, tree, "incoming")
	_, err = tree.Ingest(t.Context(), from+"/nothing", second, gc.Wanted{})
	wantError(t, err, "Unknown module")
}

func notThere(t *testing.T, tree *Volume, name string) {
	t.Helper()
	if _, err := os.Lstat(filepath.Join(tree.Root(), stateDir, name)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("%s is still there: %v", name, err)
	}
}

// rsyncServer serves dir as the module "tree", and returns its address.
func rsyncServer(t *testing.T, dir string, more ...string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	conf := filepath.Join(t.TempDir(), "rsyncd.conf")
	settings := fmt.Sprintf("use chroot = no\nuid = root\ngid = root\npid file = %s.pid\nlog file = %s.log\n[tree]\npath = %s\nread only = yes\n", conf, conf, dir)
	if err := os.WriteFile(conf, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
	args := []string{"--daemon", "--no-detach", "--address=127.0.0.1", fmt.Sprint("--port=", port), "--config=" + conf}
	daemon := exec.Command("rsync", append(args, more...)...)
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = daemon.Process.Kill(), daemon.Wait() })
	address := fmt.Sprint("127.0.0.1:", port)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if c, err := net.Dial("tcp", address); err == nil {
			_ = c.Close()
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	return "rsync://" + address
}

// A publisher that is killed in a fetch leaves no rsync that goes on, and no directory that a
// snapshot gets.
func TestAKilledFetchLeavesNothing(t *testing.T) {
	tree := volume(t)
	here := source(t, first)
	far := source(t, first)
	if err := os.WriteFile(far+"/large", bytes.Repeat([]byte("0123456789abcdef"), 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(call{Op: "ingest", Root: tree.Root(), Source: rsyncServer(t, far, "--bwlimit=200") + "/tree"})
	if err != nil {
		t.Fatal(err)
	}
	mark := "RELEASE_TEST_OP=" + string(data)
	publisher := exec.Command("/proc/self/exe")
	publisher.Env = append(os.Environ(), mark)
	publisher.Stdout, publisher.Stderr = t.Output(), t.Output()
	publisher.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := publisher.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "the fetch is under way", func() bool {
		parts, _ := filepath.Glob(filepath.Join(tree.Root(), stateDir, incoming, ".large.*"))
		return len(parts) > 0 && len(marked(t, mark)) >= 4 // publisher, watcher, rsync's two
	})
	_, _ = publisher.Process.Kill(), publisher.Wait()
	until(t, "nothing of it lives", func() bool { return len(marked(t, mark)) == 0 })

	in, err := tree.Ingest(t.Context(), here, second, gc.Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	notThere(t, tree, incoming)
	if err := os.Mkdir(filepath.Join(tree.Root(), stateDir, incoming), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := tree.Activate(t.Context(), in.ID, in.Digest, 1); err != nil { // a rollback
		t.Fatal(err)
	}
	notThere(t, tree, incoming)
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// marked are the processes that have this line in their environment.
func marked(t *testing.T, line string) (pids []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		env, _ := os.ReadFile(file) // it may have ended
		if bytes.Contains(env, []byte(line)) {
			pids = append(pids, file)
		}
	}
	return pids
}

// rsync leaves out what it was not told to send, and ends well. One rule for both kinds of SOURCE:
// it is refused by name.
func TestWhatRsyncLeavesOutIsRefused(t *testing.T) {
	bin := t.TempDir()
	put(t, bin, "0755 ssh", "#!/bin/bash\nwhile [[ $1 == -* ]]; do [[ $1 == -o ]] && shift; shift; done; shift\neval \"$@\"\n")
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for name, mode := range map[string]uint32{"a fifo": unix.S_IFIFO, "socket": unix.S_IFSOCK, "device": unix.S_IFCHR} {
		tree, dir := volume(t), source(t, first)
		if err := unix.Mknod(filepath.Join(dir, "bin", name), mode|0o600, int(unix.Mkdev(1, 3))); err != nil {
			t.Fatal(err)
		}
		for _, from := range []string{dir, "host:" + dir} {
			_, err := tree.Ingest(t.Context(), from, second, gc.Wanted{})
			wantError(t, err, name)
			wantError(t, err, "only files, directories and symlinks can be released")
		}
	}
}

// With --checksum, the other side is silent for as long as it hashes a large file. Here a minute of
// rsync's patience is a second.
func TestASilentRsyncIsNotADeadOne(t *testing.T) {
	bin := t.TempDir()
	said := filepath.Join(bin, "said")
	put(t, bin, "0755 ssh", "#!/bin/bash\necho \"$*\" >"+said+"\nwhile [[ $1 == -* ]]; do [[ $1 == -o ]] && shift; shift; done; shift\nsleep 3\neval \"$@\"\n")
	rsync, err := exec.LookPath("rsync")
	if err != nil {
		t.Fatal(err)
	}
	put(t, bin, "0755 rsync", "#!/bin/bash\nfor a; do shift; [[ $a == --timeout=* ]] && a=--timeout=$((${a#*=} / 60)); set -- \"$@\" \"$a\"; done\nexec "+rsync+" \"$@\"\n")
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	tree, dir := volume(t), source(t, first)
	in, err := tree.Ingest(t.Context(), "host:"+dir, second, gc.Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	same(t, dir, tree.Path(in.ID))
	words, err := os.ReadFile(said)
	if err != nil || !strings.Contains(string(words), "-o ServerAliveInterval=15 -o ServerAliveCountMax=4") {
		t.Errorf("nobody asks whether the other side lives: ssh %s (%v)", words, err)
	}
}

// The user that the volume belongs to can rename what is in its directories, also the directory
// that root fetches into, at any time.
func TestWhoOwnsTheVolumeCannotLeadAFetchElsewhere(t *testing.T) {
	bin := t.TempDir()
	// Stands for ssh, and lets the other user have its way before and after the transfer.
	put(t, bin, "0755 ssh", "#!/bin/bash\nwhile [[ $1 == -* ]]; do [[ $1 == -o ]] && shift; shift; done; shift\n"+
		"[[ $WHEN == before ]] && eval \"$SWAP\"\neval \"$@\"\ncode=$?\n[[ $WHEN == after ]] && eval \"$SWAP\"\nexit $code\n")
	rsync, err := exec.LookPath("rsync")
	if err != nil {
		t.Fatal(err)
	}
	// One that follows any link, as all did before 3.5.
	put(t, bin, "0755 rsync", fmt.Sprintf("#!/bin/bash\n[[ $1 != --server ]] && %s --insecure-links --version >/dev/null 2>&1 && set -- --insecure-links \"$@\"\nexec %[1]s \"$@\"\n", rsync))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for _, when := range []string{"before", "after"} {
		t.Run(when, func(t *testing.T) {
			tree, outside := volume(t), t.TempDir()
			put(t, outside, "0600 secret", "root's own\n")
			for _, open := range []string{filepath.Dir(outside), outside} { // for everybody to look into, like /etc
				if err := os.Chmod(open, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			before := listing(t, open(t, outside))
			from, state := source(t, first), tree.Root()+"/.ebs-release"
			t.Setenv("WHEN", when)
			t.Setenv("SWAP", fmt.Sprintf("setpriv --reuid=%d --regid=%d --clear-groups bash -c 'cd %s && mv incoming aside && ln -s %s incoming'",
				ordinary, ordinary, state, outside))
			in, err := tree.Ingest(t.Context(), "host:"+from, second, gc.Wanted{})
			if when == "before" {
				wantError(t, err, "rsync from there")
			} else if err != nil {
				t.Fatal(err)
			} else {
				same(t, from, tree.Path(in.ID))
			}
			if after := listing(t, open(t, outside)); after != before {
				t.Errorf("written outside:\n%s", after)
			}
			if _, err := os.Lstat(state + "/aside"); err != nil {
				t.Errorf("the other user did nothing: %v", err)
			}
		})
	}
}

func TestAScratchFolderThatWasReplacedIsRefused(t *testing.T) {
	tree := volume(t)
	stop, replaced := make(chan struct{}), make(chan struct{})
	state := tree.Root() + "/.ebs-release"
	put(t, state, "mine/", "")
	if err := os.Chown(state+"/mine", ordinary, ordinary); err != nil {
		t.Fatal(err)
	}
	go func() { // exchanges the two as soon as both are there
		defer close(replaced)
		for unix.Renameat2(unix.AT_FDCWD, state+"/mine", unix.AT_FDCWD, state+"/incoming", unix.RENAME_EXCHANGE) != nil {
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	dir, err := tree.scratch(asIs)
	close(stop)
	<-replaced
	if err != nil { // the other was faster
		wantError(t, err, "was replaced as soon as it was made")
		return
	}
	defer func() { _ = dir.Close() }()
	info, err := dir.Stat()
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Fatalf("%+v, %v", info, err)
	}
}

func TestRemoteSources(t *testing.T) {
	for source, want := range map[string]bool{
		"/srv/x": false, "./a:b": false, "dir/a:b": false, "x": false, ":x": false,
		"host:": true, "host:/srv": true, "user@host:srv": true, "host::module": true, "rsync://host/module": true,
	} {
		if got := IsRemote(source); got != want {
			t.Errorf("IsRemote(%q) = %v", source, got)
		}
	}
}
