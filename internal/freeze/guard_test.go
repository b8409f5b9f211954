package freeze_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ebs-release/internal/freeze"
	"ebs-release/internal/test/scratch"

	"golang.org/x/sys/unix"
)

func TestFreezeStopsWritersUntilThaw(t *testing.T) {
	at := disk(t, "ext4")
	if err := freeze.Thaw(at); !errors.Is(err, freeze.ErrNotFrozen) {
		t.Fatalf("thaw of what is not frozen: %v", err)
	}
	if err := freeze.Freeze(at); err != nil {
		t.Fatal(err)
	}
	if err := freeze.Freeze(at); !errors.Is(err, unix.EBUSY) {
		t.Fatalf("second freeze: %v, want EBUSY", err)
	}
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(filepath.Join(at, "x"), nil, 0o644) }()
	select {
	case err := <-written:
		t.Fatalf("a write went through while frozen (%v)", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := freeze.Thaw(at); err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
}

func TestFreezeAndThawOnRealFileSystems(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			path := disk(t, kind)
			hold, err := scratch.Holder(path, 5*time.Second).Freeze(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !scratch.Frozen(t, path) {
				t.Error("not frozen while held")
			}
			if err := hold.Release(); err != nil {
				t.Error(err)
			}
			if scratch.Frozen(t, path) {
				t.Error("still frozen after the release")
			}
		})
	}
}

func TestGuardThawsWhenThePublisherIsKilled(t *testing.T) {
	path := disk(t, "ext4")
	publisher := exec.Command("/proc/self/exe", "play-publisher", path, "30s")
	out, err := publisher.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := publisher.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "frozen\n" || !scratch.Frozen(t, path) {
		t.Errorf("publisher said %q, frozen: %v", line, scratch.Frozen(t, path))
	}
	if err := publisher.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	publisher.Wait()
	scratch.WritableWithin(t, path, 2*time.Second)
}

func TestGuardThawsAtItsLimitAndTheReleaseSaysSo(t *testing.T) {
	path := disk(t, "ext4")
	hold, err := scratch.Holder(path, 100*time.Millisecond).Freeze(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	scratch.WritableWithin(t, path, 2*time.Second)
	if err := hold.Release(); err == nil || !strings.Contains(err.Error(), "the limit of 100ms passed") {
		t.Errorf("Release() = %v, want that the limit passed", err)
	}
}

func TestHolderThawsForAGuardThatWasKilled(t *testing.T) {
	path := disk(t, "ext4")
	hold, err := scratch.Holder(path, 30*time.Second).Freeze(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	signalGuard(t, path, syscall.SIGKILL)
	if err := hold.Release(); err == nil || !strings.Contains(err.Error(), "guard") {
		t.Errorf("Release() = %v, want that the guard is gone", err)
	}
	if scratch.Frozen(t, path) {
		t.Error("still frozen")
	}
}

// A thaw writes to the disk, which may be busy: the freeze was good all the same.
func TestHolderWaitsForASlowThaw(t *testing.T) {
	path := disk(t, "ext4")
	slow := freeze.Holder{Path: path, Limit: 10 * time.Second,
		Command: []string{"/bin/sh", "-c", `echo synced; echo frozen; read asked; /bin/sleep 2.5; echo "thawed: asked to"`}}
	hold, err := slow.Freeze(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := hold.Release(); err != nil {
		t.Errorf("Release() = %v, want none", err)
	}
}

func TestGuardThawsOnSignals(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1} {
		t.Run(s.String(), func(t *testing.T) {
			path := disk(t, "ext4")
			hold, err := scratch.Holder(path, 30*time.Second).Freeze(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			signalGuard(t, path, s)
			scratch.WritableWithin(t, path, 2*time.Second)
			if err := hold.Release(); err == nil || !strings.Contains(err.Error(), "signal "+s.String()) {
				t.Errorf("Release() = %v, want that the guard thawed on %v", err, s)
			}
		})
	}
}

func TestThawBySomeoneElseIsNoticed(t *testing.T) {
	path := disk(t, "ext4")
	hold, err := scratch.Holder(path, 30*time.Second).Freeze(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := freeze.Thaw(path); err != nil {
		t.Fatal(err)
	}
	if err := hold.Release(); err == nil || !strings.Contains(err.Error(), "by someone else") {
		t.Errorf("Release() = %v, want that someone else thawed", err)
	}
}

func TestFreezeOfWhatIsFrozenAlreadyIsAnError(t *testing.T) {
	path := disk(t, "ext4")
	if err := freeze.Freeze(path); err != nil {
		t.Fatal(err)
	}
	_, err := scratch.Holder(path, 5*time.Second).Freeze(t.Context())
	if err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("Freeze() = %v, want busy", err)
	}
	if !scratch.Frozen(t, path) {
		t.Error("a freeze that is not ours was ended")
	}
	if err := freeze.Thaw(path); err != nil {
		t.Error(err)
	}
}

func TestFreezeIsRefused(t *testing.T) {
	path := disk(t, "ext4")
	key := filepath.Join(path, "key")
	if err := os.WriteFile(key, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Run("root file system", func(t *testing.T) {
		refused(t, scratch.Holder("/", time.Second), "the root file system")
	})
	t.Run("a file that the publisher needs", func(t *testing.T) {
		h := scratch.Holder(path, time.Second)
		h.Refuse = []freeze.Place{{What: "nothing", Path: ""}, {What: "missing", Path: "/does/not/exist"}, {What: "the ssh key", Path: key}}
		refused(t, h, "the ssh key ("+key+")")
	})
	t.Run("working directory", func(t *testing.T) {
		t.Chdir(path)
		refused(t, scratch.Holder(path, time.Second), "the working directory")
	})
	t.Run("no such path", func(t *testing.T) {
		refused(t, scratch.Holder("/does/not/exist", time.Second), "no such file")
	})
	t.Run("a file system that cannot be frozen", func(t *testing.T) {
		refused(t, scratch.Holder("/proc", time.Second), "freeze /proc")
	})
	t.Run("cancelled before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := scratch.Holder(path, time.Second).Freeze(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Freeze() = %v, want it cancelled", err)
		}
	})
}

func refused(t *testing.T, h freeze.Holder, want string) {
	t.Helper()
	_, err := h.Freeze(t.Context())
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Freeze() = %v, want it to contain %q", err, want)
	}
	if h.Path != "/" && h.Path != "/proc" && err == nil && scratch.Frozen(t, h.Path) {
		t.Error("frozen all the same")
	}
}

// signalGuard finds the guard of path among this process's children.
func signalGuard(t *testing.T, path string, s syscall.Signal) {
	t.Helper()
	children, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range children {
		pids, _ := os.ReadFile(file)
		for _, word := range strings.Fields(string(pids)) {
			cmdline, _ := os.ReadFile("/proc/" + word + "/cmdline")
			if !strings.Contains(string(cmdline), "play-guard\x00"+path+"\x00") {
				continue
			}
			pid, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(pid, s); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("no guard of %s found", path)
}
