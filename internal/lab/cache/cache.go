// Package cache is where the lab keeps what takes long to build, outside of the tree: the golden
// disk, an S3 server.
package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"ebs-release/internal/flock"
)

// pause is how long to wait before another look whether a build is done.
const pause = 200 * time.Millisecond

// Directory follows the XDG base directories for a person's lab; root's has its place under /var.
func Directory() string {
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "ebs-release")
	}
	return "/var/cache/ebs-release"
}

// Lock makes a directory and waits until no other process builds something in it, or ctx ends.
func Lock(ctx context.Context, dir string) (unlock func() error, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := flock.Wait(ctx, file, pause); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s, which another build may hold: %w", file.Name(), err), file.Close())
	}
	return file.Close, nil
}
