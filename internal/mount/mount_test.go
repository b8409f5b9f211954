package mount_test

import (
	"crypto/sha256"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/mount"
	"ebs-release/internal/test/scratch"

	"golang.org/x/sys/unix"
)

func run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return string(out)
}

// point makes an empty mount point; what is mounted there at the end of the test goes.
func point(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "release")
	if err := os.Mkdir(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		for err == nil {
			err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		}
		if errors.Is(err, unix.EBUSY) {
			t.Errorf("the test left somebody who uses %s: %v", dir, unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH))
		}
	})
	return dir
}

func prepare(t *testing.T, device, kind string) *mount.Detached {
	t.Helper()
	d, err := mount.Prepare(device, kind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestDetachedMountIsReadableBeforeAnybodySeesIt(t *testing.T) {
	for _, tc := range []struct {
		kind string
		size int64
		mkfs []string
	}{
		{"ext4", 16 << 20, []string{"mkfs.ext4", "-q", "-F"}},
		{"xfs", 320 << 20, []string{"mkfs.xfs", "-q"}},
	} {
		t.Run(tc.kind, func(t *testing.T) {
			device, at := scratch.Disk(t, tc.size, tc.mkfs...), point(t)
			d := prepare(t, device, tc.kind)
			if err := os.WriteFile(filepath.Join(d.Root(), "hello"), []byte("inside"), 0o644); err != nil {
				t.Fatal(err)
			}
			if seen, err := mount.Look(at); err != nil || seen != nil {
				t.Fatalf("before the move: %v, %v, want nothing there", seen, err)
			}
			if err := d.MoveTo(at); err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(filepath.Join(at, "hello")); err != nil || string(got) != "inside" {
				t.Fatalf("hello = %q, %v", got, err)
			}
			seen, err := mount.Look(at)
			if err != nil || seen == nil {
				t.Fatalf("after the move: %v, %v", seen, err)
			}
			for _, option := range []string{"nosuid", "nodev", "noatime", "rw"} {
				if !strings.Contains(","+seen.Options+",", ","+option+",") {
					t.Errorf("options = %s, want %s among them", seen.Options, option)
				}
			}
			if seen.Kind != tc.kind || seen.Source != device {
				t.Errorf("mounted = %+v, want %s on %s", seen, tc.kind, device)
			}
			major, minor := d.Number()
			if err := mount.Visible(at, major, minor); err != nil {
				t.Error(err)
			}
			if err := mount.Visible(at, major, minor+1); err == nil || !strings.Contains(err.Error(), "not the disk") {
				t.Errorf("another disk there: %v", err)
			}
			if err := mount.Unmount(at); err != nil {
				t.Fatal(err)
			}
			if err := mount.Visible(at, major, minor); err == nil || !strings.Contains(err.Error(), "is not mounted") {
				t.Errorf("after unmount: %v", err)
			}
		})
	}
}

func TestClosedWithoutAMoveIsUnmounted(t *testing.T) {
	device := scratch.Disk(t, 16<<20, "mkfs.ext4", "-q", "-F")
	d := prepare(t, device, "ext4")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	// An exclusive open works again as soon as no file system holds the disk.
	deadline := time.Now().Add(5 * time.Second)
	for {
		f, err := os.OpenFile(device, os.O_RDWR|unix.O_EXCL, 0)
		if err == nil {
			f.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the disk is still in use: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestTwoSnapshotsOfOneXFSMountSideBySide(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 320<<20); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.xfs", "-q", image)
	run(t, "cp", "--sparse=always", image, image+"2")
	first, second := prepare(t, scratch.Loop(t, image), "xfs"), prepare(t, scratch.Loop(t, image+"2"), "xfs")
	if err := os.WriteFile(filepath.Join(first.Root(), "x"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(second.Root(), "x")); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the second shows the first's file: %v", err)
	}
}

func TestMountPointRules(t *testing.T) {
	dir := t.TempDir()
	write := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	target := t.TempDir()
	if err := os.Mkdir(filepath.Join(target, "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, point, want string }{
		{"missing", filepath.Join(dir, "missing"), "Try: install -d -m 0555"},
		{"file", write("file"), "not a directory"},
		{"symbolic link", filepath.Join(dir, "link"), "symbolic link"},
		{"below a symbolic link", filepath.Join(dir, "link", "below"), "symbolic link"},
		{"not empty", filepath.Dir(write("full/data")), "not empty"},
		{"relative", "release", "clean absolute path"},
		{"the root", "/", "clean absolute path"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := mount.Look(tc.point); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error = %v, want %q in it", err, tc.want)
			}
		})
	}
}

func TestMovingOntoAMountIsRefused(t *testing.T) {
	at := point(t)
	if err := unix.Mount("tmpfs", at, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	d := prepare(t, scratch.Disk(t, 16<<20, "mkfs.ext4", "-q", "-F"), "ext4")
	if err := d.MoveTo(at); err == nil || !strings.Contains(err.Error(), "mounted there already") {
		t.Fatalf("error = %v", err)
	}
	if err := unix.Mount("tmpfs", at, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := mount.Look(at); err == nil || !strings.Contains(err.Error(), "on top of each other") {
		t.Fatalf("two mounts: %v", err)
	}
}

func TestTheKernelsReasonIsInTheError(t *testing.T) {
	_, err := mount.Prepare(scratch.Disk(t, 16<<20), "xfs")
	if err == nil || !strings.Contains(err.Error(), "as xfs") || !strings.Contains(err.Error(), "kernel: XFS") {
		t.Fatalf("error = %v, want the kernel's words in it", err)
	}
	_, err = mount.Prepare("/dev/null", "ext4")
	if err == nil || !strings.Contains(err.Error(), "not a block device") {
		t.Fatalf("error = %v", err)
	}
	_, err = mount.Prepare(scratch.Disk(t, 16<<20), "nosuchfs")
	if err == nil || !strings.Contains(err.Error(), "does not know this file system") {
		t.Fatalf("error = %v", err)
	}
}

func TestBusyUnmountNamesTheProcess(t *testing.T) {
	at := point(t)
	d := prepare(t, scratch.Disk(t, 16<<20, "mkfs.ext4", "-q", "-F"), "ext4")
	if err := d.MoveTo(at); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	user := exec.Command("sleep", "60")
	user.Dir = at
	if err := user.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { user.Process.Kill(); user.Wait() })
	err := mount.Unmount(at)
	var busy *mount.BusyError
	if !errors.As(err, &busy) || len(busy.Users) != 1 || busy.Users[0].PID != user.Process.Pid {
		t.Fatalf("error = %v, want pid %d named", err, user.Process.Pid)
	}
	user.Process.Kill()
	user.Wait()
	if err := mount.Unmount(at); err != nil {
		t.Fatal(err)
	}
}

// Row 84: an umount here leaves alone what other mount namespaces have. That is looked at first,
// and what any user can do stops nobody.
func TestUnmountLooksIntoOtherMountNamespacesFirst(t *testing.T) {
	for _, tc := range []struct {
		name      string
		unshare   []string
		unmounted bool // and otherwise refused
		held      bool // the disk is, afterwards
	}{
		{"a container's own", []string{"unshare", "--mount", "--propagation", "private"}, false, true},
		{"of a user", []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-Urm"}, true, true},
		{"of a service, which follows", []string{"unshare", "--mount", "--propagation", "slave"}, true, false},
		{"of a container in a service, which follows", []string{"unshare", "--mount", "--propagation", "slave", "sh", "-c", `mount --make-rshared / && exec "$@"`, "sh",
			"unshare", "--mount", "--propagation", "slave"}, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			// The mount below is shared, as systemd has it.
			dir := t.TempDir()
			run(t, "chmod", "0755", dir)
			run(t, "mount", "--bind", dir, dir)
			t.Cleanup(func() { run(t, "umount", dir) })
			run(t, "mount", "--make-private", dir)
			run(t, "mount", "--make-shared", dir)
			at, disk := filepath.Join(dir, "release"), scratch.Disk(t, 16<<20, "mkfs.ext4", "-q", "-F")
			run(t, "mkdir", at)
			if err := mount.Mount(disk, "ext4", at); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Unmount(at, unix.UMOUNT_NOFOLLOW) })
			other := exec.Command(tc.unshare[0], append(tc.unshare[1:], "sh", "-c", "echo up; exec sleep 60")...)
			out, err := other.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := other.Start(); err != nil {
				t.Fatal(err)
			}
			stop := func() { other.Process.Kill(); other.Wait() }
			t.Cleanup(stop)
			if _, err := out.Read(make([]byte, 2)); err != nil {
				t.Fatal(err)
			}
			named := func(err error) bool {
				var busy *mount.BusyError
				return errors.As(err, &busy) && len(busy.Users) == 1 && busy.Users[0].PID == other.Process.Pid
			}
			err = mount.Unmount(at)
			if tc.unmounted && err != nil || !tc.unmounted && !named(err) {
				t.Errorf("unmount: %v", err)
			}
			if seen, err := mount.Look(at); err != nil || (seen == nil) != tc.unmounted {
				t.Errorf("mounted is %v, %v", seen, err)
			}
			if err := mount.Unused(disk); tc.held && !named(err) && tc.unmounted || !tc.held && err != nil {
				t.Errorf("the disk: %v, want pid %d named: %t", err, other.Process.Pid, tc.held)
			}
			stop()
			for end := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(end); err = mount.Unmount(at) { // the namespace goes a moment later
				runtime.Gosched()
			}
			if err != nil {
				t.Error(err)
			}
			for err = mount.Unused(disk); err != nil && t.Context().Err() == nil; err = mount.Unused(disk) {
				runtime.Gosched()
			}
		})
	}
}

func TestUnmountSeesTheSameFileSystemAtAnotherPlace(t *testing.T) {
	at, other, disk := point(t), point(t), scratch.Disk(t, 16<<20, "mkfs.ext4", "-q", "-F")
	if err := mount.Mount(disk, "ext4", at); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "--bind", at, other)
	if err := mount.Unmount(at); err == nil || !strings.Contains(err.Error(), "Try: umount "+other) {
		t.Errorf("%v", err)
	}
	run(t, "umount", other)
	if err := mount.Unmount(at); err != nil {
		t.Error(err)
	}
}

// Row 93: whoever may write to a directory above the mount point does not get anything mounted,
// made or unmounted elsewhere.
func TestNoLinkAboveAMountPointIsFollowed(t *testing.T) {
	dir := t.TempDir()
	real, at := filepath.Join(dir, "real"), filepath.Join(dir, "link/release")
	run(t, "mkdir", "-p", real+"/release")
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	disk := scratch.Disk(t, 16<<20, "mkfs.ext4", "-q", "-F")
	d := prepare(t, disk, "ext4")
	if err := d.MoveTo(at); err == nil || !strings.Contains(err.Error(), "lies behind, a symbolic link (to "+real+"/release)") {
		t.Errorf("MoveTo: %v", err)
	}
	if err := os.Remove(real + "/release"); err != nil {
		t.Fatal(err)
	}
	if made, err := mount.MakePoint(at); made || err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("MakePoint: %v, %v", made, err)
	}
	if made, err := mount.MakePoint(real + "/release"); !made || err != nil {
		t.Fatalf("MakePoint: %v, %v", made, err)
	}
	if err := d.MoveTo(real + "/release"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(real+"/release", unix.UMOUNT_NOFOLLOW) })
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := mount.Unmount(at); err == nil {
		t.Error("unmounted behind a symbolic link")
	}
	if dir, err := mount.Open(at); err == nil {
		dir.Close()
		t.Error("opened behind a symbolic link")
	}
	if err := mount.Unmount(real + "/release"); err != nil {
		t.Error(err)
	}
}

func TestFileSystemWithErrorsIsReadOnly(t *testing.T) {
	at, device := point(t), scratch.Disk(t, 16<<20, "mkfs.ext4", "-q")
	scratch.Mount(t, device, at, "ext4", 0, "errors=remount-ro")
	look := func() mount.Mounted {
		t.Helper()
		m, err := mount.Look(at)
		if err != nil || m == nil {
			t.Fatalf("%v, %v", m, err)
		}
		return *m
	}
	if why := look().ReadOnly(); why != "" {
		t.Errorf("read-only by %q", why)
	}
	if err := os.WriteFile(filepath.Join("/sys/fs/ext4", filepath.Base(device), "trigger_fs_error"), []byte("a test"), 0); err != nil {
		t.Fatal(err)
	}
	if why := look().ReadOnly(); why != "ro" && why != "emergency_ro" { // the second since Linux 6.14
		t.Errorf("read-only by %q", why)
	}
}

// TestPeekWritesNothing: it sees what a crash has left in the journal, and an ext4 that was
// unmounted stays as it is.
func TestPeekWritesNothing(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			argv := []string{"mkfs.ext4", "-q", "-F"}
			size := int64(64 << 20)
			if kind == "xfs" {
				argv, size = []string{"mkfs.xfs", "-q"}, 300<<20
			}
			device := scratch.Disk(t, size, argv...)
			d := prepare(t, device, kind)
			if err := os.WriteFile(filepath.Join(d.Root(), "file"), []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
			sync(t, d.Root())
			crashed := copied(t, device)
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			images := map[string]string{"after a crash": crashed}
			var before [sha256.Size]byte
			if kind == "ext4" {
				images["unmounted"] = copied(t, device)
				before = sum(t, images["unmounted"])
			}
			for when, image := range images {
				peek, err := mount.Peek(scratch.Loop(t, image), kind)
				if err != nil {
					t.Fatal(err)
				}
				if text, err := os.ReadFile(filepath.Join(peek.Root(), "file")); err != nil || string(text) != "x" {
					t.Errorf("%s: %q, %v", when, text, err)
				}
				if err := os.WriteFile(filepath.Join(peek.Root(), "other"), nil, 0o644); !errors.Is(err, unix.EROFS) {
					t.Errorf("%s: a write: %v", when, err)
				}
				if err := peek.Close(); err != nil {
					t.Fatal(err)
				}
				if when == "unmounted" && sum(t, image) != before {
					t.Error("the disk changed")
				}
			}
		})
	}
}

func sync(t *testing.T, root string) {
	t.Helper()
	dir, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		t.Fatal(err)
	}
}

// copied is an image of a disk as it is.
func copied(t *testing.T, device string) (image string) {
	t.Helper()
	image = filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("dd", "if="+device, "of="+image, "bs=1M", "conv=sparse", "status=none").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return image
}

func sum(t *testing.T, file string) [sha256.Size]byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(data)
}
