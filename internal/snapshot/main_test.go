package snapshot_test

import (
	"os"
	"testing"

	"ebs-release/internal/test/scratch"
)

// The test binary plays the guard, too.
func TestMain(m *testing.M) {
	scratch.PlayGuard()
	os.Exit(m.Run())
}

// disk makes a real file system on a loop device and mounts it.
func disk(t *testing.T) (mountPoint string) {
	t.Helper()
	mountPoint = t.TempDir()
	scratch.Mount(t, scratch.Disk(t, 16<<20, "mkfs.ext4", "-q"), mountPoint, "ext4", 0, "")
	return mountPoint
}
