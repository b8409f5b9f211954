// Package checks is what a publish needs, looked at one by one, for P0 and for the publisher's
// doctor: the release server, its volume, its rights, and the bucket that its store is in. Nothing
// here changes anything.
package checks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/freeze"
	"ebs-release/internal/mount"
	"ebs-release/internal/release"

	"golang.org/x/sys/unix"
)

// A release volume with less left than this cannot take a release in, however little changed. What
// a release needs in the end is known only while it is taken in; running out of space there changes
// nothing either.
const (
	leastBytes  = 16 << 20
	leastInodes = 1000
)

// Root is an error for any other user.
func Root() error {
	if os.Geteuid() != 0 {
		return advice.Try(errors.New("freezing a file system needs root"), "sudo")
	}
	return nil
}

// Source looks at a directory that is to be published. An rsync source (host:path, rsync://) is
// rsync's business.
func Source(source string) error {
	if release.IsRemote(source) {
		return nil
	}
	info, err := os.Stat(source)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", source)
	}
	entries, err := os.ReadDir(source)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return fmt.Errorf("%s is empty", source)
	}
	return nil
}

// Programs are those that this publish runs: ssh, where it logs in to members, and rsync, where the
// source is another machine's.
func Programs(logsIn bool, source string) error {
	var needed []string
	if logsIn {
		needed = append(needed, "ssh")
	}
	if release.IsRemote(source) {
		needed = append(needed, "rsync")
	}
	for _, name := range needed {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%s is not installed: %w", name, err)
		}
	}
	return nil
}

// Mounted is what is mounted at the release volume's mount point.
func Mounted(point string) (*mount.Mounted, error) {
	_, statErr := os.Lstat(point)
	mounted, err := mount.Look(point)
	if errors.Is(statErr, os.ErrNotExist) || err == nil && mounted == nil {
		return nil, advice.Try(fmt.Errorf("nothing is mounted at %s", point), "ebs-release init, or mount the release volume")
	}
	return mounted, err
}

// frozenTime is longer than any publish holds a freeze.
const frozenTime = freeze.DefaultLimit + time.Second

// Writable makes sure that what is mounted at point can be written to, and that a write comes
// through.
func Writable(ctx context.Context, mounted *mount.Mounted, point string) error {
	if why := mounted.ReadOnly(); why != "" {
		return advice.Try(fmt.Errorf("%s at %s is mounted read-only (%s)", mounted, point, why),
			"dmesg, which says why; then mount -o remount,rw %s", point)
	}
	return notFrozen(ctx, point, frozenTime)
}

func notFrozen(ctx context.Context, point string, limit time.Duration) error {
	err := freeze.Writable(ctx, point, limit)
	if errors.Is(err, freeze.ErrStuck) {
		return fmt.Errorf("%s seems to be frozen: a write has waited for %v, and a publish holds a freeze for %v at most. "+
			"Run `ebs-release thaw`; should that say that it was not frozen, its disk does not answer: see dmesg",
			point, limit, freeze.DefaultLimit)
	}
	return err
}

// Space says whether there is room for any release at all.
func Space(point string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(point, &fs); err != nil {
		return fmt.Errorf("statfs %s: %w", point, err)
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < leastBytes {
		return advice.Try(fmt.Errorf("%s has %d MiB left", point, free>>20), "a larger volume, or fewer releases on it (--keep)")
	}
	if fs.Files > 0 && fs.Ffree < leastInodes {
		return advice.Try(fmt.Errorf("%s has %d inodes left", point, fs.Ffree), "fewer releases on it (--keep)")
	}
	return nil
}
