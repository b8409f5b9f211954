package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Free frees the loop devices of a dead store by its label. There are some only when a file system
// was frozen while the lab was killed: nobody can reach it any more, and it holds its device. A new
// mount reaches it: it is thawed and, with that mount, goes.
func Free(label string) error {
	devices, err := filepath.Glob("/sys/block/loop*/loop")
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range devices {
		path := "/dev/" + filepath.Base(filepath.Dir(d))
		if strings.HasPrefix(labelOf(path), label+"/") {
			errs = append(errs, free(path))
		}
	}
	return errors.Join(errs...)
}

// labelOf reads the record that attach made.
func labelOf(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return "" // gone meanwhile
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		return ""
	}
	return unix.ByteSliceToString(info.File_name[:])
}

func free(path string) error {
	for _, fstype := range []string{"ext4", "xfs"} {
		mount, err := mountDetached(fstype, path)
		if err != nil {
			continue
		}
		defer mount.Close()
		root, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", mount.Fd())) // what holds a mount takes no ioctl
		if err != nil {
			return fmt.Errorf("thaw %s: %w", path, err)
		}
		defer root.Close()
		if err := unix.IoctlSetInt(int(root.Fd()), fiThaw, 0); err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: it is not frozen
			return fmt.Errorf("thaw %s: %w", path, err)
		}
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("free %s: %w", path, err)
	}
	defer f.Close()
	return unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
}
