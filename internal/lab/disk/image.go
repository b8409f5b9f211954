package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// imageBytes is the size of the sparse file behind a store. Only what is written takes space.
const imageBytes = 256 << 30

// image is an xfs of our own in a sparse file without a name, mounted nowhere: a file descriptor
// holds the mount (fsmount(2)). When that is closed, or when the process dies, mount, loop device
// and file are gone.
type image struct {
	device *Device
	mount  *os.File
}

// newImage makes an xfs, for its reflinks: a machine's root is often ext4, which has none.
func newImage(ctx context.Context, dir, label string) (*image, error) {
	file, err := os.CreateTemp(dir, "store-*")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if err := errors.Join(os.Remove(file.Name()), file.Truncate(imageBytes)); err != nil {
		return nil, err
	}
	device, err := attach(file, label, 0)
	if err != nil {
		return nil, err
	}
	// A small log, since it is zeroed at mkfs; no discard (-K), since a new file has nothing to
	// discard.
	mkfs := exec.CommandContext(ctx, "mkfs.xfs", "-q", "-K", "-m", "reflink=1", "-d", "agcount=8", "-l", "size=64m", device.Path)
	if out, err := mkfs.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w: %s", strings.Join(mkfs.Args, " "), err, out), device.Close())
	}
	mount, err := mountDetached("xfs", device.Path)
	if err != nil {
		return nil, errors.Join(err, device.Close())
	}
	return &image{device: device, mount: mount}, nil
}

// path is the root directory of the image, for this process alone.
func (i *image) path() string { return fmt.Sprintf("/proc/self/fd/%d", i.mount.Fd()) }

func (i *image) close(ctx context.Context) error {
	return errors.Join(i.mount.Close(), i.device.Close(), i.device.Gone(ctx))
}

// mountDetached mounts source in no mount namespace at all.
func mountDetached(fstype, source string) (*os.File, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("mount %s: fsopen %s: %w", source, fstype, err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "source", source); err != nil {
		return nil, fmt.Errorf("mount %s: set source: %w", source, err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("mount %s as %s: %w", source, fstype, err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOATIME)
	if err != nil {
		return nil, fmt.Errorf("mount %s: fsmount: %w", source, err)
	}
	return os.NewFile(uintptr(fd), source), nil
}
