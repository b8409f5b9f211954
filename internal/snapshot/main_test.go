package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/mount"
	"ebs-release/internal/snapshot"

	"golang.org/x/sys/unix"
)

// The test binary plays the other processes, too: the guard, and a publisher that freezes and then
// hangs.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "play-guard" {
		os.Exit(playGuard(os.Args[2], os.Args[3]))
	}
	if len(os.Args) == 4 && os.Args[1] == "play-publisher" {
		os.Exit(playPublisher(os.Args[2], os.Args[3]))
	}
	os.Exit(m.Run())
}

func playGuard(path, limit string) int {
	d, err := time.ParseDuration(limit)
	if err != nil {
		return 2
	}
	guard := snapshot.Guard{Path: path, Limit: d, Sync: mount.Sync, Freeze: mount.Freeze, Thaw: mount.Thaw}
	if guard.Run(os.Stdin, os.Stdout, snapshot.GuardSignals()) != nil {
		return 1
	}
	return 0
}

func playPublisher(path, limit string) int {
	d, err := time.ParseDuration(limit)
	if err != nil {
		return 2
	}
	if _, err := holder(path, d).Freeze(context.Background()); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("frozen")
	time.Sleep(time.Minute) // the test kills this process long before
	return 1
}

func holder(path string, limit time.Duration) snapshot.Holder {
	return snapshot.Holder{
		Command: []string{"/proc/self/exe", "play-guard", path, limit.String()},
		Path:    path, Limit: limit, Thaw: mount.Thaw,
	}
}

// disk makes a real file system on a loop device and mounts it.
func disk(t *testing.T, kind string) string {
	t.Helper()
	dir := t.TempDir()
	image, mountPoint := filepath.Join(dir, "image"), filepath.Join(dir, "release")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	size, mkfs := int64(16<<20), []string{"mkfs.ext4", "-q", image}
	if kind == "xfs" {
		size, mkfs = 300<<20, []string{"mkfs.xfs", "-q", image}
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	run(t, mkfs...)
	device := run(t, "losetup", "--find", "--show", image)
	t.Cleanup(func() { run(t, "losetup", "--detach", device) })
	if err := os.Mkdir(mountPoint, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(device, mountPoint, kind, 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if mount.Thaw(mountPoint) == nil {
			t.Error("the test left its file system frozen")
		}
		// A guard whose publisher was killed lets go a moment after its thaw.
		err := unix.Unmount(mountPoint, 0)
		for end := time.Now().Add(10 * time.Second); errors.Is(err, unix.EBUSY) && time.Now().Before(end); err = unix.Unmount(mountPoint, 0) {
			time.Sleep(time.Millisecond)
		}
		if err != nil {
			t.Error(err)
		}
	})
	return mountPoint
}

func run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", argv, err, out)
	}
	return strings.TrimSpace(string(out))
}

// frozen asks the kernel: a second freeze is refused as busy.
func frozen(t *testing.T, path string) bool {
	t.Helper()
	err := mount.Freeze(path)
	if err == nil {
		if err := mount.Thaw(path); err != nil {
			t.Fatal(err)
		}
		return false
	}
	if !strings.Contains(err.Error(), "busy") {
		t.Fatal(err)
	}
	return true
}

// writableWithin writes a file, which blocks while the file system is frozen.
func writableWithin(t *testing.T, path string, within time.Duration) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- os.WriteFile(filepath.Join(path, "written"), []byte("x"), 0o644) }()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(within):
		mount.Thaw(path)
		<-done
		t.Fatalf("%s was still frozen after %v", path, within)
	}
}
