package flock_test

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ebs-release/internal/flock"
)

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestOneHolderAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, second := open(t, path), open(t, path) // flock(2) locks are of an open file, not of a process
	if err := errors.Join(flock.TryShared(first), flock.TryShared(second)); err != nil {
		t.Fatal(err)
	}
	if err := flock.Try(second); !errors.Is(err, flock.ErrHeld) {
		t.Errorf("while it is shared: %v", err)
	}
	second.Close()
	if err := flock.Try(first); err != nil {
		t.Error(err)
	}
	if err := flock.TryShared(open(t, path)); !errors.Is(err, flock.ErrHeld) {
		t.Errorf("shared while it is held: %v", err)
	}
}

func TestWaitEndsWithTheLockOrWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, second := open(t, path), open(t, path)
	if err := flock.Wait(t.Context(), first, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := flock.Wait(ctx, second, time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a lock that is held: %v", err)
	}
	got := make(chan error, 1)
	go func() { got <- flock.Wait(t.Context(), second, time.Millisecond) }()
	first.Close()
	if err := <-got; err != nil {
		t.Error(err)
	}
	if err := flock.Wait(t.Context(), first, time.Millisecond); err == nil {
		t.Error("a closed file was locked")
	}
}

func TestTheKernelSaysWhoHoldsIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	is := func(held, mine bool) {
		t.Helper()
		if got, err := flock.Held(path); got != held || err != nil {
			t.Errorf("held: %v, %v, want %v", got, err, held)
		}
		if got, err := flock.HeldBy(path, os.Getpid()); got != mine || err != nil {
			t.Errorf("held by this process: %v, %v, want %v", got, err, mine)
		}
	}
	if held, err := flock.Held(path); held || err != nil {
		t.Errorf("no file: %v, %v", held, err)
	}
	f := open(t, path)
	is(false, false)
	if err := flock.TryShared(f); err != nil {
		t.Fatal(err)
	}
	is(true, false) // not for this process alone
	if err := flock.Try(f); err != nil {
		t.Fatal(err)
	}
	is(true, true)
	if held, err := flock.HeldBy(path, 1); held || err != nil {
		t.Errorf("held by PID 1: %v, %v", held, err)
	}
	if held, err := flock.HeldBy(path, math.MaxInt32); held || err != nil { // there is no such process
		t.Errorf("held by nobody: %v, %v", held, err)
	}
	f.Close()
	is(false, false)
}
