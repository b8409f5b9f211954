package snapshot_test

import (
	"os"
	"testing"
	"time"

	"ebs-release/internal/freeze"
	"ebs-release/internal/test/scratch"
)

// The test binary plays the guard, too.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "play-guard" {
		os.Exit(playGuard(os.Args[2], os.Args[3]))
	}
	os.Exit(m.Run())
}

func playGuard(path, limit string) int {
	d, err := time.ParseDuration(limit)
	if err != nil {
		return 2
	}
	if freeze.NewGuard(path, d).Run(os.Stdin, os.Stdout, freeze.Signals()) != nil {
		return 1
	}
	return 0
}

func holder(path string, limit time.Duration) freeze.Holder {
	return freeze.Holder{Command: []string{"/proc/self/exe", "play-guard", path, limit.String()}, Path: path, Limit: limit}
}

// disk makes a real file system on a loop device and mounts it.
func disk(t *testing.T) (mountPoint string) {
	t.Helper()
	mountPoint = t.TempDir()
	scratch.Mount(t, scratch.Disk(t, 16<<20, "mkfs.ext4", "-q"), mountPoint, "ext4", 0, "")
	return mountPoint
}
