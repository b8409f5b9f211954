package device

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The kernel's uevents wake a look; a look now and then makes up for events that do not come (a
// network namespace of a container, a full socket buffer). It is the listing of one directory, so
// it may come often.
const (
	firstLook = time.Millisecond
	lastLook  = 50 * time.Millisecond
)

// Find waits until the volume is a disk of this machine that can be read, or ctx ends. attachedAs
// is the device name of the attachment (/dev/xvdaa): the disk's name on Xen, where no serial tells,
// and used only when there is no NVMe disk but instance store.
func (f Finder) Find(ctx context.Context, volumeID, attachedAs string) (Device, error) {
	dev, err := f.find(ctx, volumeID, attachedAs)
	if err != nil {
		return Device{}, fmt.Errorf("find the disk of %s: %w", volumeID, err)
	}
	return dev, nil
}

// Here is one look for the disk that Find waits for: false when there is none that can be read.
func (f Finder) Here(volumeID, attachedAs string) (Device, bool, error) {
	l, err := f.look(volumeID, attachedAs)
	if err != nil || len(l.found) == 0 {
		return Device{}, false, err
	}
	return l.found[0], true, nil
}

// All are the NVMe disks of EBS volumes that can be read and that the kernel has not cut into
// partitions. Of a disk on Xen nobody here knows which volume it is.
func (f Finder) All() ([]Device, error) {
	entries, err := os.ReadDir(f.Sys)
	if err != nil {
		return nil, err
	}
	var all []Device
	for _, entry := range entries {
		if !nvmeDisk.MatchString(entry.Name()) {
			continue
		}
		parts, err := filepath.Glob(filepath.Join(f.Sys, entry.Name(), entry.Name()+"p*"))
		if err != nil || len(parts) > 0 {
			continue
		}
		serial, err := f.serial(entry.Name())
		if err != nil || VolumeID(serial) == "" {
			continue
		}
		if dev, err := f.ready(entry.Name(), serial); err == nil {
			all = append(all, dev)
		}
	}
	return all, nil
}

func (f Finder) find(ctx context.Context, volumeID, attachedAs string) (Device, error) {
	// Listen before the first look, or what happens in between is missed.
	events, err := listen(ctx)
	if err != nil {
		f.Log.Debug("no uevents, looking at sysfs now and then", "error", err)
	}
	defer events.close()
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		l, err := f.look(volumeID, attachedAs)
		switch {
		case err != nil:
			return Device{}, err
		case len(l.found) > 1:
			return Device{}, fmt.Errorf("%s and %s have the same serial: cannot tell which is right", l.found[0].Name, l.found[1].Name)
		case len(l.found) == 1:
			return l.found[0], nil
		}
		if err := events.wait(ctx, pause); err != nil {
			return Device{}, fmt.Errorf("%w: %s", err, l.why())
		}
	}
}

func (l look) why() string {
	switch {
	case l.waiting != "":
		return l.waiting
	case len(l.seen) > 0:
		return "no disk has its serial (" + strings.Join(l.seen, ", ") + ")"
	default:
		return "there is no NVMe disk"
	}
}
