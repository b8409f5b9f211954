package release

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"ebs-release/internal/gc"
	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

func wholeReleases(t *testing.T, tree *Volume, want ...string) {
	t.Helper()
	ids, err := tree.Releases()
	if err != nil || strings.Join(ids, " ") != strings.Join(want, " ") {
		t.Errorf("releases: %v, %v; want %v", ids, err, want)
	}
	for _, id := range ids {
		if err := tree.Verify(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
}

func TestTheOldestTreeBecomesTheNewOne(t *testing.T) {
	server, far, held, next := fleetOf(t)
	old := far.Path(held[0].ID)
	moved := inode(t, old+"/bin")
	if recycled := pushAs(t, server, far, held[2], next, 4); recycled != held[0].ID {
		t.Fatal(recycled)
	}
	same(t, server.Path(next.ID), far.Path(next.ID))
	wholeReleases(t, far, held[1].ID, held[2].ID, next.ID)
	if err := far.Check(next.ID, next.Digest, 4); err != nil {
		t.Error(err)
	}
	if inode(t, far.Path(next.ID)+"/bin") != moved {
		t.Error("its directories were made anew")
	}
	if inode(t, far.Path(next.ID)+"/bin/run") != inode(t, far.Path(held[2].ID)+"/bin/run") {
		t.Error("an unchanged file is not the one of the release before")
	}
	if manifests, _ := filepath.Glob(far.Root() + "/.ebs-release/*.manifest"); len(manifests) != 3 {
		t.Errorf("manifests: %v", manifests)
	}
	if left := listing(t, far); strings.Contains(left, partialExt) {
		t.Errorf("left behind:\n%s", left)
	}
	for line := range strings.Lines(listing(t, far)) {
		if !strings.Contains(line, fmt.Sprintf(" %d ", ordinary)) {
			t.Errorf("not the owner's: %s", line)
		}
	}
}

// Whatever somebody did to the tree that becomes the new one: none of it gets into that, and
// nothing else comes to harm.
func TestNothingOfAnOddOldTreeGetsIntoTheNewOne(t *testing.T) {
	outside := t.TempDir()
	put(t, outside, "victim", "untouched")
	put(t, outside, "sub/victim", "untouched")
	for name, spoil := range map[string]func(t *testing.T, old string){
		"a file was replaced, by one of the same size": func(t *testing.T, old string) { remove(t, old, "etc/same"); put(t, old, "etc/same", "the SAME\n") },
		"a file was replaced, with the same time, too": func(t *testing.T, old string) {
			info, err := os.Stat(old + "/bin/run")
			if err != nil {
				t.Fatal(err)
			}
			remove(t, old, "bin/run")
			put(t, old, "0755 bin/run", "#!/bin/no\n")
			if err := os.Chtimes(old+"/bin/run", info.ModTime(), info.ModTime()); err != nil {
				t.Fatal(err)
			}
		},
		"a file that changed since": func(t *testing.T, old string) { put(t, old, "etc/conf", "colour=sad\n") },
		"a file is gone":            func(t *testing.T, old string) { remove(t, old, "bin/run") },
		"a directory is gone":       func(t *testing.T, old string) { remove(t, old, "bin") },
		"a file too many":           func(t *testing.T, old string) { put(t, old, "bin/more", "x"); put(t, old, "more", "x") },
		"directories too many": func(t *testing.T, old string) {
			put(t, old, "bin/more/and/more", "x")
			put(t, old, "more/and/more", "x")
			if err := errors.Join(os.Chmod(old+"/bin/more/and", 0), os.Chmod(old+"/more", 0o500)); err != nil {
				t.Fatal(err)
			}
		},
		"files too many, at the end": func(t *testing.T, old string) { put(t, old, "bin/zz", "x"); put(t, old, "zz", "x") },
		"a file is a directory":      func(t *testing.T, old string) { remove(t, old, "bin/run"); put(t, old, "bin/run/x/y", "x") },
		"a directory is a file":      func(t *testing.T, old string) { remove(t, old, "bin"); put(t, old, "bin", "x") },
		"a directory leads out":      func(t *testing.T, old string) { remove(t, old, "sub"); put(t, old, "sub -> "+outside+"/sub", "") },
		"a file leads out": func(t *testing.T, old string) {
			remove(t, old, "bin/run")
			put(t, old, "bin/run -> "+outside+"/victim", "")
		},
		"a symlink leads out":      func(t *testing.T, old string) { remove(t, old, "out"); put(t, old, "out -> "+outside, "") },
		"a symlink is a directory": func(t *testing.T, old string) { remove(t, old, "out"); put(t, old, "out/x", "x") },
		"other modes": func(t *testing.T, old string) {
			if err := errors.Join(os.Chmod(old+"/bin", 0o700), os.Chmod(old+"/etc", 0), os.Chmod(old+"/lib", 0o2777)); err != nil {
				t.Fatal(err)
			}
		},
		"a fifo and a socket": func(t *testing.T, old string) {
			remove(t, old, "bin/run")
			if err := errors.Join(unix.Mkfifo(old+"/bin/run", 0o644), unix.Mknod(old+"/etc/s", unix.S_IFSOCK|0o644, 0)); err != nil {
				t.Fatal(err)
			}
		},
		"nothing is left of it": func(t *testing.T, old string) {
			entries, err := os.ReadDir(old)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				remove(t, old, e.Name())
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			server, far, held, next := fleetOf(t)
			spoil(t, far.Path(held[0].ID))
			if out, err := exec.CommandContext(t.Context(), "chown", "-hR", fmt.Sprintf("%d:%d", ordinary, ordinary), far.Path(held[0].ID)).CombinedOutput(); err != nil {
				t.Fatalf("%v %s", err, out)
			}
			if recycled := pushAs(t, server, far, held[2], next, 4); recycled != held[0].ID {
				t.Fatal(recycled)
			}
			same(t, server.Path(next.ID), far.Path(next.ID))
			wholeReleases(t, far, held[1].ID, held[2].ID, next.ID)
			for _, victim := range []string{"victim", "sub/victim"} {
				if content, err := os.ReadFile(outside + "/" + victim); err != nil || string(content) != "untouched" {
					t.Errorf("%s outside of the volume: %q, %v", victim, content, err)
				}
			}
		})
	}
}

// Hard links share what is written in place: the release before has it, too, and cannot be a base.
func TestAFileThatWasWrittenInPlaceIsFound(t *testing.T) {
	server, far, held, next := fleetOf(t)
	put(t, far.Path(held[0].ID), "etc/same", "the SAME\n")
	err := catchUpBeside(t.Context(), far, held[2], next, bytes.NewReader(packOf(t, server, held[2], next)), 0)
	if wantError(t, err, "etc/same"); !errors.Is(err, ErrBase) {
		t.Fatal(err)
	}
	if recycled := pushAs(t, server, far, Ingested{}, next, 4); recycled != held[0].ID {
		t.Fatal(recycled)
	}
	same(t, server.Path(next.ID), far.Path(next.ID))
}

// The oldest tree goes before the base is looked at, and with its names the ctimes of files move
// that it shares with the base: what was edited there is told all the same, ever after.
func TestAnEditKeepsItsTraceWhenItsTreeIsRecycled(t *testing.T) {
	server, far, held, next := fleetOf(t)
	secretly(t, far.Path(held[0].ID)+"/etc/same")
	for range 2 {
		err := catchUpBeside(t.Context(), far, held[2], next, bytes.NewReader(packOf(t, server, held[2], next)), 3)
		if wantError(t, err, "etc/same"); !errors.Is(err, ErrBase) {
			t.Fatal(err)
		}
	}
	pushAs(t, server, far, Ingested{}, next, 4)
	same(t, server.Path(next.ID), far.Path(next.ID))
	for _, old := range held[1:] {
		wantError(t, far.Untouched(t.Context(), old.ID), "etc/same")
	}
	if err := far.Untouched(t.Context(), next.ID); err != nil {
		t.Error(err)
	}
}

func TestATreeThatAProgramRunsInIsLeftAlone(t *testing.T) {
	for name, start := range map[string]func(t *testing.T, cmd *exec.Cmd, old string){
		"in its own directory": func(t *testing.T, cmd *exec.Cmd, old string) { cmd.Dir = old },
		"in a directory of it": func(t *testing.T, cmd *exec.Cmd, old string) { cmd.Dir = old + "/gone/deep" },
		"with an open directory": func(t *testing.T, cmd *exec.Cmd, old string) {
			directory, err := os.Open(old + "/gone")
			if err != nil {
				t.Fatal(err)
			}
			cmd.ExtraFiles = []*os.File{directory}
		},
	} {
		t.Run(name, func(t *testing.T) {
			server, far, held, next := fleetOf(t)
			old := held[0]
			cmd := exec.CommandContext(t.Context(), "sleep", "60")
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinary, Gid: ordinary}}
			start(t, cmd, far.Path(old.ID))
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
			if recycled := pushAs(t, server, far, held[2], next, 4); recycled != "" {
				t.Fatal(recycled)
			}
			wholeReleases(t, far, held[0].ID, held[1].ID, held[2].ID, next.ID)
		})
	}
}

// The owner of the tree cannot see where another user's program is, below the release for example.
// That one must not find itself in the new release: whoever does not see everybody makes a new
// tree.
func TestAProgramOfAnotherUserDoesNotFindItselfInTheNewRelease(t *testing.T) {
	server, far, held, next := fleetOf(t)
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	cmd.Dir = far.Path(held[0].ID) + "/etc"
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	if recycled := pushAsOwner(t, server, far, held[2], next, 4); recycled != "" {
		t.Fatal(recycled)
	}
	if conf, err := os.ReadFile(fmt.Sprintf("/proc/%d/cwd/conf", cmd.Process.Pid)); err != nil || string(conf) != first["etc/conf"] {
		t.Fatalf("it sees %q, %v; want the release that it was started in", conf, err)
	}
}

// Nor does a root that a sandbox keeps from looking.
func TestRootInASandboxDoesNotSeeEverybody(t *testing.T) {
	runtime.LockOSThread() // rights are a thread's
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var all [2]unix.CapUserData
	if err := unix.Capget(&header, &all[0]); err != nil || !seesAll() {
		t.Fatalf("root does not see all: %v", err)
	}
	less := all
	less[0].Effective &^= 1 << unix.CAP_SYS_PTRACE
	if err := unix.Capset(&header, &less[0]); err != nil {
		t.Fatal(err)
	}
	if seesAll() {
		t.Error("it counts as one that sees all")
	}
	if err := unix.Capset(&header, &all[0]); err != nil {
		t.Fatal(err)
	}
}

// A container has a tree bound, in a mount namespace of its own: neither root nor the owner of the
// tree touches it.
func TestATreeThatAContainerHasMountedIsLeftAlone(t *testing.T) {
	for name, push := range map[string]func(t *testing.T, server, far *Volume, base, in Ingested, generation int64) string{"root": pushAs, "owner": pushAsOwner} {
		t.Run(name, func(t *testing.T) {
			server, far, held, next := fleetOf(t)
			tree := far.Path(held[0].ID)
			container := exec.CommandContext(t.Context(), "unshare", "-m", "sh", "-c", `mount --bind "$1" /mnt && cd / && echo mounted && exec cat`, "sh", tree+"/etc")
			stdin, err1 := container.StdinPipe()
			stdout, err2 := container.StdoutPipe()
			if err := errors.Join(err1, err2, container.Start()); err != nil {
				t.Fatal(err)
			}
			defer func() { _, _ = stdin.Close(), container.Wait() }()
			if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "mounted\n" {
				t.Fatal(line, err)
			}
			if recycled := push(t, server, far, held[2], next, 4); recycled != "" {
				t.Fatal(recycled)
			}
			be(t, call{Op: "prune", Root: far.Root(), Keep: 1}, "")
			wholeReleases(t, far, held[0].ID, next.ID)
			if conf, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/mnt/conf", container.Process.Pid)); err != nil || string(conf) != first["etc/conf"] {
				t.Fatalf("the container sees %q, %v", conf, err)
			}
			if err := errors.Join(stdin.Close(), container.Wait()); err != nil {
				t.Fatal(err)
			}
			be(t, call{Op: "prune", Root: far.Root(), Keep: 1}, "") // now nobody holds it
			wholeReleases(t, far, next.ID)
		})
	}
}

func TestOnlyATreeThatNobodyNeedsIsRecycled(t *testing.T) {
	server, far, held, next := fleetOf(t)
	ids := []string{held[0].ID, held[1].ID, held[2].ID}
	least := func(keep int, needed string) string {
		t.Helper()
		id, err := far.spare(gc.Wanted{Keep: keep}, needed)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	for _, tc := range []struct {
		keep         int
		needed, want string
	}{
		{3, ids[2], ids[0]},
		{2, ids[2], ids[0]}, // more than are kept
		{4, ids[2], ""},     // fewer than are kept
		{3, ids[0], ""},     // the other one was current until just now
	} {
		if got := least(tc.keep, tc.needed); got != tc.want {
			t.Errorf("keep %d, %s needed: %q, want %q", tc.keep, tc.needed, got, tc.want)
		}
	}
	// After a rollback to the oldest, the one that was current until then stays, whatever their
	// names say.
	if err := far.Activate(t.Context(), ids[0], held[0].Digest, 4); err != nil {
		t.Fatal(err)
	}
	if got := least(3, ids[0]); got != ids[1] {
		t.Errorf("after a rollback: %q, want %q", got, ids[1])
	}
	// What the fence names is as good as current: a crash came before the flip.
	if err := os.WriteFile(far.Root()+"/"+fencePath, []byte("5 "+ids[1]+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := least(3, ids[0]); got != "" {
		t.Errorf("after a crash before the flip: %q", got)
	}
	// A volume of an older agent does not say which one was current before.
	if err := errors.Join(os.WriteFile(far.Root()+"/"+fencePath, []byte("5 "+ids[0]+"\n"), 0o644), os.Remove(far.Root()+"/"+previousPath)); err != nil {
		t.Fatal(err)
	}
	if got := least(3, ids[0]); got != "" {
		t.Errorf("when nobody knows: %q", got)
	}
	deliver(t, server, far, held[0], next)
	wholeReleases(t, far, ids[0], ids[1], ids[2], next.ID)
}

func TestATransferThatFailsLeavesWhatWasCurrentAndTheOneBefore(t *testing.T) {
	server, far, held, next := fleetOf(t)
	text := packOf(t, server, held[2], next)
	if recycled := goneFrom(t, far, func() {
		wantError(t, catchUpBeside(t.Context(), far, held[2], next, bytes.NewReader(text[:len(text)-5]), 3), "the pack is cut off")
	}); recycled != held[0].ID {
		t.Fatal(recycled)
	}
	whole(t, far, "after it", held[1].ID, held[2].ID)
	// And no further one goes with the next attempt.
	if recycled := pushAs(t, server, far, held[2], next, 4); recycled != "" {
		t.Fatal(recycled)
	}
	wholeReleases(t, far, held[1].ID, held[2].ID, next.ID)
}

func TestPushesForLong(t *testing.T) {
	server, far, held, next := fleetOf(t)
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", server.Path(next.ID)+"/.", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	before := held[2]
	for i := range 12 {
		put(t, dir, "etc/conf", fmt.Sprint("round ", i))
		put(t, dir, fmt.Sprintf("d%d/e/file", i%4), fmt.Sprint(i))
		remove(t, dir, fmt.Sprintf("d%d", (i+2)%4))
		if err := os.Chmod(dir+"/lib", os.FileMode(0o755-i%2*0o200)); err != nil {
			t.Fatal(err)
		}
		in, err := server.Ingest(t.Context(), dir, second.Add(time.Duration(10+i)*time.Second), gc.Wanted{})
		if err != nil {
			t.Fatal(err)
		}
		if recycled := pushAs(t, server, far, before, in, int64(10+i)); manifest.CheckID(recycled) != nil {
			t.Fatalf("round %d: %q", i, recycled)
		}
		same(t, server.Path(in.ID), far.Path(in.ID))
		before = in
	}
	ids, err := far.Releases()
	if err != nil || len(ids) != 3 {
		t.Fatalf("%v, %v", ids, err)
	}
	wholeReleases(t, far, ids...)
}

// An application that runs as another user may make directories where a release lets everybody
// write. The owner of the tree cannot remove them.
func TestAFolderOfAnotherUserStopsNoLaterPush(t *testing.T) {
	server, far, held, next := fleetOf(t)
	for _, old := range held[:2] {
		put(t, far.Path(old.ID), "etc/tmp/x", "root's")
	}
	pushAsOwner(t, server, far, held[2], next, 4)
	be(t, call{Op: "prune", Root: far.Root(), Keep: 3}, "")
	holds := func(want ...string) { // but for the one with a directory too many
		t.Helper()
		if ids, err := far.Releases(); err != nil || strings.Join(ids, " ") != strings.Join(want, " ") {
			t.Fatalf("releases: %v, %v; want %v", ids, err, want)
		}
		same(t, server.Path(next.ID), far.Path(next.ID))
	}
	holds(held[1].ID, held[2].ID, next.ID)
	for range 2 { // it is said each time
		said := be(t, call{Op: "prune", Root: far.Root(), Keep: 2}, "")
		for _, old := range held[:2] {
			if !strings.Contains(said, "remove leftover "+far.PartialPath(old.ID)) {
				t.Errorf("%s is not in %q", old.ID, said)
			}
			if left, err := os.ReadDir(far.PartialPath(old.ID)); err != nil || len(left) != 1 {
				t.Errorf("more is left than the directory and the way to it: %v, %v", left, err)
			}
		}
	}
	holds(held[2].ID, next.ID)
	dir := source(t, map[string]string{"etc/conf": "colour=blue\n"})
	last := publish(t, server, dir, 5)
	pushAsOwner(t, server, far, next, last, 5)
	same(t, server.Path(last.ID), far.Path(last.ID))
}

// A file that even root cannot remove: the new tree is made anew, and what is left of the old one
// is no release.
func TestAnOldTreeThatCannotBeChangedIsNotRecycled(t *testing.T) {
	server, far, held, next := fleetOf(t)
	shared := "/gone/deep/file" // it is no part of the next one
	setFlag(t, far.Path(held[2].ID)+shared, immutable)
	t.Cleanup(func() { setFlag(t, far.Path(held[2].ID)+shared, 0) })
	if recycled := pushAs(t, server, far, held[2], next, 4); recycled != held[0].ID {
		t.Fatal(recycled)
	}
	wholeReleases(t, far, held[1].ID, held[2].ID, next.ID)
	same(t, server.Path(next.ID), far.Path(next.ID))
	if _, err := os.Stat(far.PartialPath(held[0].ID) + shared); err != nil {
		t.Errorf("test bug: it was removed: %v", err)
	}
	if _, err := os.Stat(far.PartialPath(next.ID)); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
