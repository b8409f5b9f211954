package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/gc"
	"ebs-release/internal/manifest"
	"ebs-release/internal/words"

	"golang.org/x/sys/unix"
)

// MakeRoom has room for as many bytes, as makeRoom does.
func (v *Volume) MakeRoom(ctx context.Context, need int64, wanted gc.Wanted, base string) error {
	if free, err := v.free(); err != nil || need <= free {
		return err
	}
	return v.locked(ctx, func() error { return v.makeRoom(ctx, need, wanted, base) })
}

// makeRoom makes a full disk known before anything is written, and gives up releases before that:
// those that are needed least, one by one, until there is room. What it cannot foresee the kernel
// says later.
func (v *Volume) makeRoom(ctx context.Context, need int64, wanted gc.Wanted, base string) error {
	free, err := v.free()
	if err != nil || need <= free {
		return err
	}
	on, err := v.inventory()
	if err != nil {
		return err
	}
	on.Base, on.InUse = base, v.inUse(on.Releases)
	for _, id := range wanted.ForRoom(on) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := errors.Join(v.remove(ctx, id), v.syncAll()); err != nil { // synced: what is free is known then
			return err
		}
		if free, err = v.free(); err != nil || need <= free {
			return err
		}
	}
	if on.Releases, err = v.Releases(); err != nil {
		return err
	}
	left, try := whatWouldFit(on, wanted)
	return advice.Try(fmt.Errorf("%s has %s free, the release needs %s more: %w%s",
		v.path, words.Bytes(free), words.Bytes(need), unix.ENOSPC, left), "%s", try)
}

// whatWouldFit says what still takes up room, and what to do about it.
func whatWouldFit(on gc.Volume, wanted gc.Wanted) (left, try string) {
	const larger = "a larger volume"
	if len(on.Releases) == 0 {
		return "", larger
	}
	left = "; left are"
	for _, id := range on.Releases {
		switch before := wanted.Before(on); {
		case id == on.Current:
			left += " " + id + " (current)"
		case on.InUse[id] != "":
			left += " " + id + " (in use by " + on.InUse[id] + ")"
		case id == before:
			left += " " + id + " (what a rollback needs)"
		default:
			left += " " + id
		}
	}
	if wanted.Keep != 1 && len(on.Releases) > 1 {
		return left, larger + ", or --keep 1, which gives up what a rollback needs"
	}
	return left, larger
}

// free is how many bytes can be written.
func (v *Volume) free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(v.dir.Fd()), &st); err != nil {
		return 0, fmt.Errorf("free space on %s: %w", v.path, err)
	}
	return int64(st.Bavail) * st.Bsize, nil // the type differs between architectures
}

// whatIsFull adds to the kernel's "no space left on device" that it was the inodes: every file
// takes one, ext4 has a fixed number of them, and df shows free bytes. dir is on the file system.
func whatIsFull(dir *os.File, err error) error {
	var st unix.Statfs_t
	if !errors.Is(err, unix.ENOSPC) || unix.Fstatfs(int(dir.Fd()), &st) != nil || st.Files == 0 || st.Ffree > 0 {
		return err
	}
	return advice.Try(fmt.Errorf("%w: all %d inodes are in use, so no file can be added although bytes are free (df -i)", err, st.Files),
		"keep fewer releases, or make the volume with more inodes")
}

// startPartial makes an empty partial tree. What a crash left of any earlier one goes: there is one
// publish at a time.
func (v *Volume) startPartial(id string, who owner) (*os.File, error) {
	foreign, err := v.sweep()
	if err != nil {
		return nil, err
	}
	partial, err := v.newPartial(id, who)
	if errors.Is(err, fs.ErrExist) {
		err = errors.Join(err, foreign)
	}
	return partial, err
}

// newPartial is startPartial without the sweep.
func (v *Volume) newPartial(id string, who owner) (*os.File, error) {
	name := releasesDir + "/" + id + partialExt
	if err := v.root.Mkdir(name, 0o755); err != nil {
		return nil, err
	}
	// Whatever the umask is: the root is not in the manifest.
	if err := v.root.Chmod(name, 0o755); err != nil {
		return nil, err
	}
	if who != asIs {
		if err := v.root.Lchown(name, who.uid, who.gid); err != nil {
			return nil, err
		}
	}
	return v.openDirectory(name)
}

// sweep removes what is not whole: partial trees, temporary files. foreign is what it had to leave,
// because its directories belong to another user, such as the one that an application runs as: that
// stops nobody, and Prune reports it.
func (v *Volume) sweep() (foreign, err error) {
	for _, dir := range []string{releasesDir, stateDir} {
		entries, err := v.readDirectory(dir)
		if err != nil {
			return foreign, fmt.Errorf("release volume %s: %w", v.path, err)
		}
		for _, e := range entries {
			name := e.Name()
			if !strings.HasSuffix(name, partialExt) && !strings.HasSuffix(name, changingExt) && !strings.HasPrefix(name, ".") {
				continue
			}
			err := v.removeTree(dir + "/" + name)
			if err != nil {
				err = fmt.Errorf("remove leftover %s/%s/%s: %w", v.path, dir, name, err)
			}
			if errors.Is(err, fs.ErrPermission) {
				foreign = errors.Join(foreign, err)
			} else if err != nil {
				return foreign, err
			}
		}
	}
	return foreign, nil
}

// removeTree removes a file or tree of the volume, also below directories that their owner may not
// write to. What is another user's stays, with the directories on the way to it, and is an
// fs.ErrPermission; the rest goes.
func (v *Volume) removeTree(name string) error {
	dir, err := v.openDirectory(path.Dir(name))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	if err := removeAt(int(dir.Fd()), path.Base(name)); err != nil {
		return &os.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

// removeAt removes a name in a directory, and what is below it. A symlink is removed, not followed;
// what is not there is fine.
func removeAt(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) {
		return err
	}
	fd, err := unix.Openat(dir, name, openDir, 0)
	if errors.Is(err, unix.EACCES) { // a mode of 0, for example
		if err := openToOwner(dir, name); err != nil {
			return err
		}
		fd, err = unix.Openat(dir, name, openDir, 0)
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := empty(fd); err != nil {
		return err
	}
	return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
}

// empty removes all that is in a directory.
func empty(dir int) error {
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return err
	}
	if st.Mode&0o700 != 0o700 {
		if err := unix.Fchmod(dir, 0o700); err != nil {
			return err
		}
	}
	var foreign error // the first is enough
	// Not all names at once: a pack that was refused may have made millions.
	err := new(lister).each(dir, func(names []name) error {
		for _, n := range names {
			err := removeAt(dir, n.name)
			if err != nil {
				err = fmt.Errorf("%s: %w", manifest.Quote(n.name), err)
			}
			if err != nil && !errors.Is(err, fs.ErrPermission) {
				return err
			}
			foreign = cmp.Or(foreign, err)
		}
		return nil
	})
	return cmp.Or(err, foreign)
}

// openToOwner gives a directory a mode with which its owner can empty it. Not by its name: chmod
// follows a symlink that took its place.
func openToOwner(dir int, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), 0o700)
}
