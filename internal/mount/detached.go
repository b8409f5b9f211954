package mount

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Detached is a mounted file system that no directory tree shows yet.
type Detached struct {
	dir    *os.File
	number uint64
}

// Prepare mounts the file system on device, detached: nosuid, nodev, noatime. kind is what the
// kernel calls the file system (ext4, xfs). xfs gets nouuid, because two snapshots of one file
// system carry the same UUID (docs/failures.md, row 12).
func Prepare(device, kind string) (*Detached, error) {
	return prepareAs(device, kind, 0)
}

// Peek is Prepare for a look: nothing can be written through it. The kernel plays a journal that
// holds something, as without that it would show what was there before; and xfs stamps its log.
func Peek(device, kind string) (*Detached, error) {
	return prepareAs(device, kind, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOEXEC)
}

func prepareAs(device, kind string, attributes int) (*Detached, error) {
	d, err := prepare(device, kind, attributes)
	if err != nil {
		return nil, fmt.Errorf("mount %s as %s: %w", device, kind, err)
	}
	return d, nil
}

func prepare(device, kind string, attributes int) (*Detached, error) {
	var node unix.Stat_t
	if err := unix.Stat(device, &node); err != nil {
		return nil, err
	}
	if node.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil, errors.New("not a block device")
	}
	log := openKernelLog(node.Rdev)
	defer log.close()

	fsfd, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	switch {
	case errors.Is(err, unix.ENODEV):
		return nil, fmt.Errorf("the kernel does not know this file system (is the module %s there?): %w", kind, err)
	case errors.Is(err, unix.ENOSYS):
		return nil, fmt.Errorf("fsopen(2) needs Linux 5.6 or later: %w", err)
	case err != nil:
		return nil, fmt.Errorf("fsopen: %w", err)
	}
	defer func() { _ = unix.Close(fsfd) }()
	err = unix.FsconfigSetString(fsfd, "source", device)
	if err == nil && kind == "xfs" {
		err = unix.FsconfigSetFlag(fsfd, "nouuid")
	}
	if err == nil && attributes&unix.MOUNT_ATTR_RDONLY != 0 {
		err = unix.FsconfigSetFlag(fsfd, "ro")
	}
	if err == nil {
		err = unix.FsconfigCreate(fsfd)
	}
	if err != nil {
		return nil, withReasons(err, contextLog(fsfd), log.read())
	}
	attributes |= unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOATIME
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return nil, withReasons(fmt.Errorf("fsmount: %w", err), contextLog(fsfd), nil)
	}
	d := &Detached{dir: os.NewFile(uintptr(fd), device), number: node.Rdev}
	// The node may have been replaced since: what counts is the disk below the file system that we
	// hold.
	var root unix.Stat_t
	if err := unix.Fstat(fd, &root); err != nil {
		_ = d.Close()
		return nil, err
	}
	if root.Dev != node.Rdev {
		_ = d.Close()
		return nil, fmt.Errorf("the kernel mounted disk %d:%d, but the node said %d:%d",
			unix.Major(root.Dev), unix.Minor(root.Dev), unix.Major(node.Rdev), unix.Minor(node.Rdev))
	}
	return d, nil
}

// Root is a path to the root of the file system that only this process can use, until Close.
func (d *Detached) Root() string { return fmt.Sprintf("/proc/self/fd/%d", d.dir.Fd()) }

// Number is the device number (major, minor) of the disk below.
func (d *Detached) Number() (major, minor uint32) { return unix.Major(d.number), unix.Minor(d.number) }

// MoveTo makes the file system visible at point, an empty directory that Look has no complaint
// about. Closing d afterwards leaves it there.
func (d *Detached) MoveTo(point string) error {
	if err := d.moveTo(point); err != nil {
		return fmt.Errorf("put the mount of %s at %s: %w", d.dir.Name(), point, err)
	}
	return nil
}

func (d *Detached) moveTo(point string) error {
	// Held open, so that what was looked at is what is mounted on.
	dir, err := openPoint(point)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	mounted, err := lookThrough(dir, point)
	if err != nil {
		return err
	}
	if mounted != nil {
		return fmt.Errorf("%s is mounted there already", mounted)
	}
	return unix.MoveMount(int(d.dir.Fd()), "", int(dir.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// Close lets go of the file system. It is unmounted, unless MoveTo put it somewhere.
func (d *Detached) Close() error { return d.dir.Close() }

// Mount prepares the file system on device and puts it at point.
func Mount(device, kind, point string) error {
	d, err := Prepare(device, kind)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.MoveTo(point)
}
