// Package scratch gives tests real disks and mounts, which are gone when the test is, also when it
// failed; and the guard that holds a freeze.
package scratch

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/freeze"

	"golang.org/x/sys/unix"
)

// patience is how long a process that ends may still use a mount: a guard whose publisher was
// killed lets go a moment after its thaw.
const patience = 10 * time.Second

// Disk makes a disk of that many bytes on a sparse file, with a file system when there is a mkfs,
// and returns its loop device.
func Disk(t testing.TB, size int64, mkfs ...string) (device string) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	if len(mkfs) > 0 {
		run(t, append(mkfs, image)...)
	}
	return Loop(t, image)
}

// Loop returns a loop device of an image. The kernel frees it when nobody has it open or mounted
// any more (LO_FLAGS_AUTOCLEAR): that is so as well when the test is killed.
func Loop(t testing.TB, image string) (device string) {
	t.Helper()
	device = run(t, "losetup", "--find", "--show", image)
	open, err := os.Open(device)
	var is *unix.LoopInfo64
	if err == nil {
		is, err = unix.IoctlLoopGetStatus64(int(open.Fd()))
	}
	if err == nil {
		is.Flags |= unix.LO_FLAGS_AUTOCLEAR
		err = unix.IoctlLoopSetStatus64(int(open.Fd()), is)
	}
	if err != nil {
		run(t, "losetup", "--detach", device)
		t.Fatalf("have %s freed with its last user: %v", device, err)
	}
	t.Cleanup(func() {
		if err := open.Close(); err != nil {
			t.Errorf("close %s: %v", device, err)
		}
	})
	return device
}

// Mount mounts a device, or "tmpfs", at a directory.
func Mount(t testing.TB, source, point, kind string, flags uintptr, options string) {
	t.Helper()
	if err := unix.Mount(source, point, kind, flags, options); err != nil {
		t.Fatalf("mount %s at %s: %v", source, point, err)
	}
	t.Cleanup(func() { unmount(t, point, patience) })
}

// unmount ends a mount. One that stays frozen or in use fails the test, and is taken away all the
// same: a mount that is left behind would hold its loop device, and the directory of the test.
func unmount(t testing.TB, point string, patience time.Duration) {
	t.Helper()
	if freeze.Thaw(point) == nil {
		t.Errorf("the test left %s frozen", point)
	}
	err := unix.Unmount(point, unix.UMOUNT_NOFOLLOW)
	for end := time.Now().Add(patience); errors.Is(err, unix.EBUSY) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
		err = unix.Unmount(point, unix.UMOUNT_NOFOLLOW)
	}
	if errors.Is(err, unix.EBUSY) {
		t.Errorf("the test left somebody who uses %s", point)
		err = unix.Unmount(point, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err != nil {
		t.Errorf("unmount %s: %v", point, err)
	}
}

// Frozen asks the kernel whether a file system is frozen: a second freeze is refused as busy.
func Frozen(t testing.TB, path string) bool {
	t.Helper()
	err := freeze.Freeze(path)
	if err == nil {
		if err := freeze.Thaw(path); err != nil {
			t.Fatal(err)
		}
		return false
	}
	if !errors.Is(err, unix.EBUSY) {
		t.Fatal(err)
	}
	return true
}

// WritableWithin writes a file, which blocks while the file system is frozen.
func WritableWithin(t testing.TB, path string, within time.Duration) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- os.WriteFile(filepath.Join(path, "written"), []byte("x"), 0o644) }()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(within):
		freeze.Thaw(path)
		<-done
		t.Fatalf("%s was still frozen after %v", path, within)
	}
}

func run(t testing.TB, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", argv, err, out)
	}
	return strings.TrimSpace(string(out))
}

// playGuard is the first argument of a test binary that plays the guard of Holder.
const playGuard = "play-guard"

// Holder freezes what is mounted at a path, with a guard that the test binary plays: its TestMain
// calls PlayGuard.
func Holder(path string, limit time.Duration) freeze.Holder {
	return freeze.Holder{Command: []string{"/proc/self/exe", playGuard, path, limit.String()}, Path: path, Limit: limit}
}

// PlayGuard is the guard, and does not return, where this process was started as one.
func PlayGuard() {
	if len(os.Args) != 4 || os.Args[1] != playGuard {
		return
	}
	limit, err := time.ParseDuration(os.Args[3])
	if err != nil {
		os.Exit(2)
	}
	if freeze.NewGuard(os.Args[2], limit).Run(os.Stdin, os.Stdout, freeze.Signals()) != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// Image makes a file with a file system on it, and mounts it at a new directory: for tests that
// damage it behind the kernel's back.
func Image(t testing.TB, size int64, mkfs ...string) (image, point string) {
	t.Helper()
	image, point = filepath.Join(t.TempDir(), "image"), t.TempDir()
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size)); err != nil {
		t.Fatal(err)
	}
	run(t, append(mkfs, image)...)
	kind := strings.TrimPrefix(filepath.Base(mkfs[0]), "mkfs.")
	Mount(t, Loop(t, image), point, kind, 0, "")
	return image, point
}

// Flip turns a bit of each place in an image that holds some text, as a bad disk does. All that was
// written is on the disk by then.
func Flip(t testing.TB, image, text string) {
	t.Helper()
	unix.Sync()
	file, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	part := make([]byte, 1<<20)
	for at := int64(0); at < info.Size(); at += int64(len(part) - len(text)) {
		n, _ := file.ReadAt(part, at)
		for from := 0; ; {
			i := bytes.Index(part[from:n], []byte(text))
			if i < 0 {
				break
			}
			from += i + 1
			found++
			if _, err := file.WriteAt([]byte{text[0] ^ 1}, at+int64(from-1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if found == 0 {
		t.Fatalf("%s does not hold %q", image, text)
	}
}
