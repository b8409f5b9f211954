package mount_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/mount"

	"golang.org/x/sys/unix"
)

// The test binary plays the program that looks: started with the verb, it tries.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == mount.TryWriteVerb {
		if err := mount.TryWrite(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// mounted is a file system at a mount point.
func mounted(t *testing.T, options string, mkfs ...string) (at, device string) {
	t.Helper()
	at, device = point(t), disk(t, 320<<20, mkfs...)
	kind := strings.TrimPrefix(mkfs[0], "mkfs.")
	if err := unix.Mount(device, at, kind, 0, options); err != nil {
		t.Fatal(err)
	}
	return at, device
}

func look(t *testing.T, at string) mount.Mounted {
	t.Helper()
	m, err := mount.Look(at)
	if err != nil || m == nil {
		t.Fatalf("%v, %v", m, err)
	}
	return *m
}

// probes counts the children that try to write to a mount point.
func probes(t *testing.T, at string) (n int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		if command, _ := os.ReadFile(file); strings.HasSuffix(string(command), "\x00"+mount.TryWriteVerb+"\x00"+at+"\x00") {
			n++
		}
	}
	return n
}

func TestFrozenFileSystemIsFoundOutWithoutHanging(t *testing.T) {
	for _, mkfs := range [][]string{{"mkfs.ext4", "-q", "-F"}, {"mkfs.xfs", "-q", "-f"}} {
		t.Run(mkfs[0], func(t *testing.T) {
			at, _ := mounted(t, "", mkfs...)
			t.Cleanup(func() { mount.Thaw(at) }) // in case the test failed
			writes := func() {
				t.Helper()
				if err := mount.Writable(t.Context(), at, 10*time.Second); err != nil {
					t.Error(err)
				}
			}
			writes()
			if err := mount.Freeze(at); err != nil {
				t.Fatal(err)
			}
			if err := mount.Writable(t.Context(), at, 300*time.Millisecond); !errors.Is(err, mount.ErrStuck) {
				t.Error(err)
			}
			// The child that hangs goes on to say so: nobody starts another one.
			if err := mount.Writable(t.Context(), at, 300*time.Millisecond); !errors.Is(err, mount.ErrStuck) || !strings.Contains(err.Error(), "has tried for more than") {
				t.Error(err)
			}
			if n := probes(t, at); n != 1 {
				t.Errorf("%d processes hang, want 1", n)
			}
			if err := mount.Thaw(at); err != nil {
				t.Fatal(err)
			}
			writes()
			if err := unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil { // waits for the child that hung, too
				t.Fatal(err)
			}
			if err := mount.Writable(t.Context(), at, 10*time.Second); err == nil || !strings.Contains(err.Error(), "read-only file system") {
				t.Errorf("%v", err)
			}
			if why := look(t, at).ReadOnly(); why != "ro" {
				t.Errorf("read-only by %q", why)
			}
			if left, _ := os.ReadDir(at); len(left) > 1 || len(left) == 1 && left[0].Name() != "lost+found" {
				t.Errorf("the probes left %v", left)
			}
		})
	}
}

func TestFileSystemWithErrorsIsReadOnly(t *testing.T) {
	at, device := mounted(t, "errors=remount-ro", "mkfs.ext4", "-q", "-F")
	if why := look(t, at).ReadOnly(); why != "" {
		t.Errorf("read-only by %q", why)
	}
	if err := os.WriteFile(filepath.Join("/sys/fs/ext4", filepath.Base(device), "trigger_fs_error"), []byte("a test"), 0); err != nil {
		t.Fatal(err)
	}
	if why := look(t, at).ReadOnly(); why != "ro" && why != "emergency_ro" { // the second since Linux 6.14
		t.Errorf("read-only by %q", why)
	}
}

func TestFileSystemThatWasShutDownIsNotWritable(t *testing.T) {
	for _, mkfs := range [][]string{{"mkfs.ext4", "-q", "-F"}, {"mkfs.xfs", "-q", "-f"}} {
		t.Run(mkfs[0], func(t *testing.T) {
			at, _ := mounted(t, "", mkfs...)
			run(t, "xfs_io", "-x", "-c", "shutdown -f", at)
			if err := mount.Writable(t.Context(), at, 10*time.Second); err == nil && look(t, at).ReadOnly() == "" {
				t.Error("it passes for writable")
			}
		})
	}
}
