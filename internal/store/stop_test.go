package store

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// holding starts a process that holds the lock, and waits until it does.
func holding(t *testing.T, dir string, argv ...string) *exec.Cmd {
	t.Helper()
	other := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	other.Env = append(os.Environ(), "STORE_TEST_HOLD="+dir)
	stdin, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _, _ = stdin.Close(), other.Process.Kill(), other.Wait() })
	buffer := make([]byte, 64)
	if n, err := stdout.Read(buffer); err != nil || !strings.HasPrefix(string(buffer[:n]), "held") {
		t.Fatalf("%q, %v", buffer[:n], err)
	}
	return other
}

func TestStopEndsTheProcessThatHoldsTheLock(t *testing.T) {
	store, dir := directory(t)
	if _, stopped, err := store.Stop(t.Context()); err != nil || stopped {
		t.Fatalf("nobody holds it: %v, %v", stopped, err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	other := holding(t, dir, exe)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	holder, stopped, err := store.Stop(ctx)
	if err != nil || !stopped || holder.PID != other.Process.Pid || holder.Who != "bob" {
		t.Fatalf("%+v, %v, %v", holder, stopped, err)
	}
	unlock, err := store.Lock(t.Context(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	_ = unlock()
}

// A publish after Ctrl-Z holds its lock, and would not see SIGTERM before it goes on.
func TestStopEndsAProcessThatIsStopped(t *testing.T) {
	store, dir := directory(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	other := holding(t, dir, exe)
	if err := other.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(other.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("it did not stop: %v, %v", status, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, stopped, err := store.Stop(ctx); err != nil || !stopped {
		t.Fatalf("%v, %v", stopped, err)
	}
}

func TestStopLeavesStrangersAlone(t *testing.T) {
	store, dir := directory(t)
	other := holding(t, dir, "flock", filepath.Join(dir, lockName), "sh", "-c", "echo held; read x")
	_, _, err := store.Stop(t.Context())
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "no publish on this machine") {
		t.Fatal(err)
	}
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the stranger is gone: %v", err)
	}
}
