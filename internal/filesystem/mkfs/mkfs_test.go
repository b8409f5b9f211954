package mkfs_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ebs-release/internal/filesystem"
	"ebs-release/internal/filesystem/mkfs"
)

func disk(t *testing.T, size int64) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", image).Output()
	if err != nil {
		t.Fatal(err)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach %s: %v %s", device, err, out)
		}
	})
	return device
}

func TestMakeOnABlankDisk(t *testing.T) {
	for kind, size := range map[filesystem.Kind]int64{filesystem.Ext4: 32 << 20, filesystem.XFS: 320 << 20} {
		t.Run(string(kind), func(t *testing.T) {
			device := disk(t, size)
			if err := mkfs.Make(context.Background(), device, kind, "code_release"); err != nil {
				t.Fatal(err)
			}
			info, err := filesystem.ProbeDevice(device)
			if err != nil || info.Kind != kind || info.Label != "code_release" || info.NeedsCheck != "" {
				t.Fatalf("info = %+v, %v", info, err)
			}
			if err := mkfs.Make(context.Background(), device, kind, "code_release"); !errors.Is(err, mkfs.ErrNotBlank) {
				t.Fatalf("a second time: %v, want ErrNotBlank", err)
			}
		})
	}
}

func TestMakeRefusesADiskWithAnythingOnIt(t *testing.T) {
	const size = 32 << 20
	for _, at := range []int64{0, 510, 1 << 19, size - 1} {
		device := disk(t, size)
		f, err := os.OpenFile(device, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{1}, at); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err := mkfs.Make(context.Background(), device, filesystem.Ext4, "x"); !errors.Is(err, mkfs.ErrNotBlank) {
			t.Errorf("one byte at %d: %v, want ErrNotBlank", at, err)
		}
	}
}

func TestMakeRefusesWhatIsNotADisk(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, device, label, want string
		kind                      filesystem.Kind
	}{
		{"a file", file, "x", "not a block device", filesystem.Ext4},
		{"another kind", file, "x", "want ext4 or xfs", filesystem.Ext3},
		{"a label too long", file, "0123456789abc", "longer than 12 bytes", filesystem.XFS},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := mkfs.Make(context.Background(), tc.device, tc.kind, tc.label); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error = %v, want %q in it", err, tc.want)
			}
		})
	}
}
