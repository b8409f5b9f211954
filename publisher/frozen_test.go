package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/mount"

	"golang.org/x/sys/unix"
)

func TestFrozenVolumeIsFoundOutWithoutHanging(t *testing.T) {
	for fileSystem, make := range map[string][]string{"ext4": {"mkfs.ext4", "-q"}, "xfs": {"mkfs.xfs", "-q"}} {
		t.Run(fileSystem, func(t *testing.T) {
			point := filepath.Join(t.TempDir(), "release")
			if err := os.Mkdir(point, 0o755); err != nil {
				t.Fatal(err)
			}
			device := loopDevice(t, 320<<20)
			command(t, append(make, device)...)
			if err := unix.Mount(device, point, fileSystem, 0, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = mount.Thaw(point) // in case the test failed
				if err := unix.Unmount(point, 0); err != nil {
					t.Error(err)
				}
			})
			if err := notFrozen(t.Context(), point, 10*time.Second); err != nil {
				t.Error(err)
			}
			if err := mount.Freeze(point); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			err := notFrozen(t.Context(), point, 300*time.Millisecond)
			if err == nil || !strings.Contains(err.Error(), "`ebs-release thaw`") || time.Since(start) > 5*time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
			if err := mount.Thaw(point); err != nil {
				t.Fatal(err)
			}
			if err := notFrozen(t.Context(), point, 10*time.Second); err != nil {
				t.Error(err)
			}
			if err := unix.Mount("", point, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil { // waits for the child that hung, too
				t.Fatal(err)
			}
			if err := notFrozen(t.Context(), point, 10*time.Second); err == nil || !strings.Contains(err.Error(), "read-only file system") {
				t.Errorf("%v", err)
			}
			if left, _ := os.ReadDir(point); len(left) > 1 || len(left) == 1 && left[0].Name() != "lost+found" {
				t.Errorf("the probes left %v", left)
			}
		})
	}
}
