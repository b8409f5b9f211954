package freeze_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/freeze"
	"ebs-release/internal/mount"

	"golang.org/x/sys/unix"
)

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
		if command, _ := os.ReadFile(file); strings.HasSuffix(string(command), "\x00"+freeze.TryWriteVerb+"\x00"+at+"\x00") {
			n++
		}
	}
	return n
}

func TestFrozenFileSystemIsFoundOutWithoutHanging(t *testing.T) {
	for _, mkfs := range [][]string{{"mkfs.ext4", "-q", "-F"}, {"mkfs.xfs", "-q", "-f"}} {
		t.Run(mkfs[0], func(t *testing.T) {
			at, _ := mounted(t, "", mkfs...)
			writes := func() {
				t.Helper()
				if err := freeze.Writable(t.Context(), at, 10*time.Second); err != nil {
					t.Error(err)
				}
			}
			writes()
			if err := freeze.Freeze(at); err != nil {
				t.Fatal(err)
			}
			if err := freeze.Writable(t.Context(), at, 300*time.Millisecond); !errors.Is(err, freeze.ErrStuck) {
				t.Error(err)
			}
			// The child that hangs goes on to say so: nobody starts another one.
			if err := freeze.Writable(t.Context(), at, 300*time.Millisecond); !errors.Is(err, freeze.ErrStuck) || !strings.Contains(err.Error(), "has tried for more than") {
				t.Error(err)
			}
			if n := probes(t, at); n != 1 {
				t.Errorf("%d processes hang, want 1", n)
			}
			if err := freeze.Thaw(at); err != nil {
				t.Fatal(err)
			}
			writes()
			if err := unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil { // waits for the child that hung, too
				t.Fatal(err)
			}
			if err := freeze.Writable(t.Context(), at, 10*time.Second); err == nil || !strings.Contains(err.Error(), "read-only file system") {
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

func TestFileSystemThatWasShutDownIsNotWritable(t *testing.T) {
	for _, mkfs := range [][]string{{"mkfs.ext4", "-q", "-F"}, {"mkfs.xfs", "-q", "-f"}} {
		t.Run(mkfs[0], func(t *testing.T) {
			at, _ := mounted(t, "", mkfs...)
			if out, err := exec.Command("xfs_io", "-x", "-c", "shutdown -f", at).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if err := freeze.Writable(t.Context(), at, 10*time.Second); err == nil && look(t, at).ReadOnly() == "" {
				t.Error("it passes for writable")
			}
		})
	}
}
