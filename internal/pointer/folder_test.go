package pointer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is also the other publisher that holds the lock: a real process, to be killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("POINTER_TEST_HOLD"); dir != "" {
		store, err := NewFolder(dir)
		if err == nil {
			_, err = store.Lock(context.Background(), "bob")
		}
		fmt.Println("held:", err)
		_, _ = bufio.NewReader(os.Stdin).ReadByte()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func directory(t *testing.T) (*Directory, string) {
	t.Helper()
	dir := t.TempDir()
	store, err := NewFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	return store, dir
}

func swap(t *testing.T, store *Directory, from int64, next Pointer) {
	t.Helper()
	if err := store.CompareAndSwap(t.Context(), from, next); err != nil {
		t.Fatal(err)
	}
}

func TestFolderServesBothFilesToEverybody(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077)) // an operator's tight umask
	store, dir := directory(t)
	if p, err := store.Read(t.Context()); err != nil || p.Generation != 0 {
		t.Fatalf("empty store: %+v, %v", p, err)
	}
	swap(t, store, 0, sample(1))
	swap(t, store, 1, sample(2))
	if p, err := store.Read(t.Context()); err != nil || p.Generation != 2 {
		t.Fatalf("got %+v, %v", p, err)
	}
	for name, want := range map[string]string{"release.json": string(sample(2).Render()), "snap.txt": "snap-0123456789abcdef0\n"} {
		file := filepath.Join(dir, name)
		data, err := os.ReadFile(file)
		if err != nil || string(data) != want {
			t.Fatalf("%s: %q, %v", name, data, err)
		}
		if info, _ := os.Stat(file); info.Mode().Perm() != 0o644 {
			t.Fatalf("%s has mode %v", name, info.Mode())
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".release.json*")); len(left) != 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestCompareAndSwapRefusesAMovedPointer(t *testing.T) {
	store, _ := directory(t)
	swap(t, store, 0, sample(5))
	for _, tc := range []struct{ from, next int64 }{{0, 1}, {4, 6}, {6, 7}, {5, 5}, {5, 4}} {
		err := store.CompareAndSwap(t.Context(), tc.from, sample(tc.next))
		if !errors.Is(err, ErrConflict) {
			t.Errorf("from %d to %d: %v", tc.from, tc.next, err)
		}
	}
	if p, _ := store.Read(t.Context()); p.Generation != 5 {
		t.Fatalf("the pointer moved to %d", p.Generation)
	}
}

func TestOneOfManyPublishersWinsEachGeneration(t *testing.T) {
	store, _ := directory(t)
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			switch err := store.CompareAndSwap(t.Context(), 0, sample(1)); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, ErrConflict):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d publishers committed generation 1", won.Load())
	}
}

func TestCompareAndSwapRefusesAnInvalidPointer(t *testing.T) {
	store, dir := directory(t)
	bad := sample(1)
	bad.Digest = "none"
	two := sample(1)
	two.Snapshots = map[string]string{"eu-west-1": "snap-01234567", "us-east-1": "snap-01234567"}
	for _, p := range []Pointer{bad, two, {}} {
		if err := store.CompareAndSwap(t.Context(), 0, p); err == nil {
			t.Errorf("wrote %+v", p)
		}
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "[!.]*")); len(files) != 0 {
		t.Fatalf("wrote %v", files)
	}
}

func TestAStoreThatCannotBeReadIsNotTakenForAnEmptyOne(t *testing.T) {
	store, dir := directory(t)
	for _, text := range []string{"", "{", "snap-01234567\n"} {
		if err := os.WriteFile(filepath.Join(dir, "release.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if p, err := store.Read(t.Context()); err == nil || !strings.Contains(err.Error(), "release.json") {
			t.Fatalf("%q was read as %+v, %v", text, p, err)
		}
		if err := store.CompareAndSwap(t.Context(), 0, sample(1)); err == nil {
			t.Fatalf("wrote over %q", text)
		}
	}
}

func TestFullDiskLeavesTheOldPointerWhole(t *testing.T) {
	store, dir := directory(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	swap(t, store, 0, sample(1))
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o644); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	if err := store.CompareAndSwap(t.Context(), 1, sample(2)); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("got %v", err)
	}
	if p, err := store.Read(t.Context()); err != nil || p.Generation != 1 {
		t.Fatalf("after a full disk: %+v, %v", p, err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	swap(t, store, 1, sample(2))
}

func TestLockNamesItsHolderAndEndsWithIt(t *testing.T) {
	store, dir := directory(t)
	if _, held, err := store.Holder(t.Context()); held || err != nil {
		t.Fatalf("fresh store: held %v, %v", held, err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	other := exec.CommandContext(t.Context(), exe)
	other.Env = append(os.Environ(), "POINTER_TEST_HOLD="+dir)
	stdin, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stdin.Close() }()
	stdout, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "held: <nil>\n" {
		t.Fatalf("%q, %v", line, err)
	}

	_, err = store.Lock(t.Context(), "alice")
	host, _ := os.Hostname()
	want := fmt.Sprintf("held by bob on %s (pid %d) since %s", host, other.Process.Pid, time.Now().UTC().Format("2006-01-02T"))
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), want) {
		t.Fatalf("got %v, want %q", err, want)
	}
	if h, held, err := store.Holder(t.Context()); !held || err != nil || h.Who != "bob" || h.PID != other.Process.Pid {
		t.Fatalf("Holder = %+v, %v, %v", h, held, err)
	}

	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = other.Wait()
	release, err := store.Lock(t.Context(), "alice")
	if err != nil {
		t.Fatalf("the lock outlived its holder: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if _, held, err := store.Holder(t.Context()); held || err != nil {
		t.Fatalf("after release: held %v, %v", held, err)
	}
}

func TestLockRepairsSnapTxtAfterACrashBetweenTheTwo(t *testing.T) {
	store, dir := directory(t)
	swap(t, store, 0, sample(1))
	next := sample(2)
	next.Snapshots = map[string]string{"eu-west-1": "snap-0fedcba9876543210"}
	if err := os.WriteFile(filepath.Join(dir, "release.json"), next.Render(), 0o644); err != nil {
		t.Fatal(err)
	}
	release, err := store.Lock(t.Context(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = release() }()
	if data, _ := os.ReadFile(filepath.Join(dir, "snap.txt")); string(data) != "snap-0fedcba9876543210\n" {
		t.Fatalf("snap.txt is %q", data)
	}
}

func TestNewFolderWantsAFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{file, file + "-missing"} {
		if _, err := NewFolder(bad); err == nil {
			t.Errorf("NewFolder(%s) took it", bad)
		}
	}
}

func TestPointerThatNobodyCouldReadIsNotWritten(t *testing.T) {
	store, _ := directory(t)
	swap(t, store, 0, sample(1))
	next := sample(2)
	next.Message = strings.Repeat("\x01", MaxSize/6) // six bytes each in JSON
	if err := store.CompareAndSwap(t.Context(), 1, next); err == nil || !strings.Contains(err.Error(), "larger than 64 KiB") {
		t.Fatalf("got %v", err)
	}
	if p, err := store.Read(t.Context()); err != nil || p.Generation != 1 {
		t.Fatalf("the pointer is %+v, %v", p, err)
	}
	next.Message = strings.Repeat("\x01", MaxMessage)
	swap(t, store, 1, next)
	if p, err := store.Read(t.Context()); err != nil || p.Message != next.Message {
		t.Fatalf("the longest message: generation %d, %v", p.Generation, err)
	}
}

func TestLocksAndHistoryAreTheOwnersAlone(t *testing.T) {
	store, dir := directory(t)
	if err := os.WriteFile(filepath.Join(dir, ".lock"), nil, 0o644); err != nil { // an older version's
		t.Fatal(err)
	}
	unlock, err := store.Lock(t.Context(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	swap(t, store, 0, sample(1))
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".lock", ".swap", "history.jsonl"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

// TestALockIsARegularFile: the store's owner may be less than root, who publishes; what a link
// leads to is neither written nor given another mode.
func TestALockIsARegularFile(t *testing.T) {
	for name, plant := range map[string]func(path, target string) error{
		"symlink": func(path, target string) error { return os.Symlink(target, path) },
		"fifo":    func(path, _ string) error { return syscall.Mkfifo(path, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			store, dir := directory(t)
			target := filepath.Join(t.TempDir(), "target")
			if err := errors.Join(os.WriteFile(target, []byte("mine"), 0o644), plant(filepath.Join(dir, ".lock"), target)); err != nil {
				t.Fatal(err)
			}
			if _, err := store.Lock(t.Context(), "alice"); err == nil {
				t.Error("it was taken for a lock")
			}
			if _, _, err := store.Holder(t.Context()); name == "symlink" && err == nil {
				t.Error("it was looked through")
			}
			info, err := os.Stat(target)
			if data, _ := os.ReadFile(target); err != nil || string(data) != "mine" || info.Mode().Perm() != 0o644 {
				t.Errorf("%q %v", data, info.Mode())
			}
		})
	}
}
