package freeze_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/freeze"
	"ebs-release/internal/test/scratch"
)

// The test binary plays the other processes, too: the guard, who tries to write, and a publisher
// that freezes and then hangs.
func TestMain(m *testing.M) {
	scratch.PlayGuard()
	if len(os.Args) == 3 && os.Args[1] == freeze.TryWriteVerb {
		if err := freeze.TryWrite(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 4 && os.Args[1] == "play-publisher" {
		os.Exit(playPublisher(os.Args[2], os.Args[3]))
	}
	os.Exit(m.Run())
}

func playPublisher(path, limit string) int {
	d, err := time.ParseDuration(limit)
	if err != nil {
		return 2
	}
	if _, err := scratch.Holder(path, d).Freeze(context.Background()); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("frozen")
	time.Sleep(time.Minute) // the test kills this process long before
	return 1
}

// disk makes a real file system on a loop device and mounts it.
func disk(t *testing.T, kind string) string {
	t.Helper()
	at, _ := mounted(t, "", "mkfs."+kind, "-q")
	return at
}

func mounted(t *testing.T, options string, mkfs ...string) (at, device string) {
	t.Helper()
	at = filepath.Join(t.TempDir(), "release")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	kind, size := strings.TrimPrefix(mkfs[0], "mkfs."), int64(16<<20)
	if kind == "xfs" {
		size = 320 << 20
	}
	device = scratch.Disk(t, size, mkfs...)
	scratch.Mount(t, device, at, kind, 0, options)
	return at, device
}
