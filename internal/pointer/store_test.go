package pointer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func directory(t *testing.T) (*Store, string) {
	t.Helper()
	dir := t.TempDir()
	store, err := Open(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return store, dir
}

// at is the pointer as somebody has read it who saw this generation.
func at(t *testing.T, store *Store, generation int64) Pointer {
	t.Helper()
	p, err := store.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p.Generation = generation
	return p
}

func swap(t *testing.T, store *Store, from int64, next Pointer) {
	t.Helper()
	if err := store.CompareAndSwap(t.Context(), at(t, store, from), next); err != nil {
		t.Fatal(err)
	}
}

func TestStoreServesBothFilesToEverybody(t *testing.T) {
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
	second := sample(2)
	second.Revision = 2
	for name, want := range map[string]string{"release.json": string(second.Render()), "snap.txt": "snap-0123456789abcdef0\n"} {
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
	for _, tc := range []struct{ from, next int64 }{{0, 1}, {4, 6}, {6, 7}, {5, 4}} {
		err := store.CompareAndSwap(t.Context(), at(t, store, tc.from), sample(tc.next))
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
			switch err := store.CompareAndSwap(t.Context(), Pointer{}, sample(1)); {
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
		if err := store.CompareAndSwap(t.Context(), Pointer{}, p); err == nil {
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
		if err := store.CompareAndSwap(t.Context(), Pointer{}, sample(1)); err == nil {
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
	if err := store.CompareAndSwap(t.Context(), at(t, store, 1), sample(2)); !errors.Is(err, unix.ENOSPC) {
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

func TestPointerThatNobodyCouldReadIsNotWritten(t *testing.T) {
	store, _ := directory(t)
	swap(t, store, 0, sample(1))
	next := sample(2)
	next.Message = strings.Repeat("\x01", MaxSize/6) // six bytes each in JSON
	if err := store.CompareAndSwap(t.Context(), at(t, store, 1), next); err == nil || !strings.Contains(err.Error(), "larger than 128 KiB") {
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
