package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Device is a file shown as a block device. Whoever got one closes it.
//
// The kernel frees it once its last user is gone (LO_FLAGS_AUTOCLEAR): closed here and no longer
// mounted anywhere. So a lab that is killed leaves none.
type Device struct {
	Path         string // /dev/loop7
	Major, Minor uint32
	Bytes        int64
	fd           *os.File
	backing      file   // behind it
	volume       string // the id of the volume, "" for the store's own
}

// Close gives the device back. One that is still mounted lives on until it is unmounted: see Gone.
func (d *Device) Close() error {
	if err := d.fd.Close(); err != nil {
		return fmt.Errorf("close %s: %w", d.Path, err)
	}
	return nil
}

// Announce makes the kernel send a uevent ("add", "change", "remove") about the device. It reaches
// every network namespace of the machine.
func (d *Device) Announce(action string) error {
	path := fmt.Sprintf("/sys/dev/block/%d:%d/uevent", d.Major, d.Minor)
	if err := os.WriteFile(path, []byte(action), 0); err != nil {
		return fmt.Errorf("announce %s of %s: %w", action, d.Path, err)
	}
	return nil
}

// Gone waits until the kernel has let go of the closed device. The wait ends with ctx.
func (d *Device) Gone(ctx context.Context) error {
	for d.inUse() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is still in use: is it mounted somewhere? (%w)", d.Path, context.Cause(ctx))
		case <-time.After(5 * time.Millisecond): // an unmount by the death of a namespace takes a moment; nothing tells of its end
		}
	}
	return nil
}

// inUse says whether the kernel still has our file behind the device: once free, its number may go
// to anyone, whose file may well have the same path in a namespace of his.
func (d *Device) inUse() bool {
	device, err := os.Open(d.Path)
	if err != nil {
		return false
	}
	defer device.Close()
	info, err := unix.IoctlLoopGetStatus64(int(device.Fd())) // ENXIO: nothing behind it
	return err == nil && file{info.Device, info.Inode} == d.backing
}

// file is one of this machine, whatever its path.
type file struct{ device, inode uint64 }

func fileOf(f *os.File) (file, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return file{st.Dev, st.Ino}, err
}

// readAhead is as for a disk of EC2: 128 KiB (Linux, VM_READAHEAD_PAGES). A loop
// device has twice what suits its file (io_opt), and a reader of a cold disk would load more blocks
// side by side than there.
func readAhead(device *os.File) error {
	const sectors = 128 << 10 / 512
	return unix.IoctlSetInt(int(device.Fd()), unix.BLKRASET, sectors)
}

// attach shows a file as a block device. The label (63 bytes at most) stands in the device's own
// record, for a sweep of what a dead lab may leave.
func attach(volume *os.File, label string, flags uint32) (*Device, error) {
	info, err := volume.Stat()
	if err != nil {
		return nil, err
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("loop devices (is the loop module there, are we root?): %w", err)
	}
	defer control.Close()

	// Sectors of 512 bytes, as EBS has them. Left open, the kernel takes what suits the directory's
	// disk, and an xfs made on one volume does not mount on the next.
	config := unix.LoopConfig{Fd: uint32(volume.Fd()), Size: 512, Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR | flags}}
	copy(config.Info.File_name[:len(config.Info.File_name)-1], label)
	for range 100 { // another process may take the free device that the kernel named: ask for the next one
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		path := fmt.Sprintf("/dev/loop%d", number)
		fd, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, fmt.Errorf("open loop device: %w", err)
		}
		err = unix.IoctlLoopConfigure(int(fd.Fd()), &config)
		if err == nil {
			device := &Device{Path: path, Bytes: info.Size(), fd: fd}
			if err := readAhead(fd); err != nil {
				fd.Close()
				return nil, fmt.Errorf("set the read-ahead of %s: %w", path, err)
			}
			var st unix.Stat_t
			if err := unix.Fstat(int(fd.Fd()), &st); err != nil {
				fd.Close()
				return nil, fmt.Errorf("stat %s: %w", path, err)
			}
			device.Major, device.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
			if device.backing, err = fileOf(volume); err != nil {
				fd.Close()
				return nil, fmt.Errorf("stat %s: %w", volume.Name(), err)
			}
			return device, nil
		}
		fd.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("set up %s for %s: %w", path, label, err)
		}
	}
	return nil, errors.New("find a free loop device: others took each one first, 100 times")
}
