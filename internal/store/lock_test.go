package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is also the other publisher that holds the lock: a real process, to be killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("STORE_TEST_HOLD"); dir != "" {
		store, err := NewDirectory(dir)
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
	store, err := NewDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	return store, dir
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
	other.Env = append(os.Environ(), "STORE_TEST_HOLD="+dir)
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

func TestADirectoryIsADirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{file, file + "-missing"} {
		if _, err := NewDirectory(bad); err == nil {
			t.Errorf("NewDirectory(%s) took it", bad)
		}
	}
}
