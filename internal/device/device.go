// Package device finds the block device that an EBS volume became on this machine: by its NVMe
// serial number, never by guessing names.
//
// A Nitro instance shows an EBS volume as an NVMe disk whose serial number is the volume's id
// without the dash (https://docs.aws.amazon.com/ebs/latest/userguide/nvme-ebs-volumes.html). Names
// move between boots, udev's links may be late, stale or missing; the serial in sysfs is the
// kernel's own word.
package device

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"ebs-release/internal/advice"

	"golang.org/x/sys/unix"
)

// Device is a disk that is ready to be read.
type Device struct {
	Name         string // nvme1n1
	Path         string // /dev/nvme1n1
	Major, Minor uint32
	Bytes        int64
	Serial       string // vol0123456789abcdef0; empty on Xen, which has none
}

// Finder looks into sysfs and /dev.
type Finder struct {
	Sys string // /sys/block
	Dev string // /dev
	Log *slog.Logger
}

// New returns a Finder for this machine.
func New(log *slog.Logger) Finder { return Finder{Sys: "/sys/block", Dev: "/dev", Log: log} }

// nvmeDisk leaves out nvme0c0n1, the hidden paths of a multipath disk: they have no node in /dev.
var nvmeDisk = regexp.MustCompile(`^nvme[0-9]+n[0-9]+$`)

// look is one look at all disks.
type look struct {
	found   []Device // with the serial that was asked for, ready
	nvme    bool     // there is an NVMe disk that may be an EBS volume
	waiting string   // why what was found is not ready yet
	seen    []string // the other disks, for the error
}

func (f Finder) look(volumeID, attachedAs string) (look, error) {
	var l look
	entries, err := os.ReadDir(f.Sys)
	if err != nil {
		return l, err
	}
	for _, entry := range entries {
		name := entry.Name()
		if !nvmeDisk.MatchString(name) {
			continue
		}
		got, err := f.serial(name)
		l.nvme = l.nvme || err != nil || f.mayBeEBS(name, got)
		switch {
		case err != nil:
			l.seen = append(l.seen, name+" with an unreadable serial")
		case got != Serial(volumeID):
			l.seen = append(l.seen, name+" is "+got)
		default:
			l.add(f.ready(name, got))
		}
	}
	if l.nvme {
		return l, nil
	}
	name := XenName(attachedAs)
	if _, err := os.Stat(filepath.Join(f.Sys, name)); name != "" && err == nil {
		l.add(f.ready(name, ""))
	}
	return l, nil
}

// mayBeEBS is false for an NVMe instance store only, which Xen instances have too (i3, f1): their
// EBS volumes are xvd….
func (f Finder) mayBeEBS(name, serial string) bool {
	model, err := f.attribute(name, "device/model")
	return err != nil || strings.HasPrefix(serial, "vol") || model != "Amazon EC2 NVMe Instance Storage"
}

func (l *look) add(dev Device, err error) {
	if err != nil {
		l.waiting = err.Error()
		return
	}
	l.found = append(l.found, dev)
}

// Serial is the NVMe serial number of a volume: its id without the dash.
func Serial(volumeID string) string { return strings.Replace(volumeID, "-", "", 1) }

var volumeSerial = regexp.MustCompile(`^vol([0-9a-f]{8,32})$`)

// VolumeID is the volume of an NVMe serial number; "": it is no EBS volume's.
func VolumeID(serial string) string {
	m := volumeSerial.FindStringSubmatch(serial)
	if m == nil {
		return ""
	}
	return "vol-" + m[1]
}

func (f Finder) serial(name string) (string, error) {
	text, err := f.attribute(name, "device/serial")
	if err == nil && text == "" {
		err = errors.New("the serial is empty")
	}
	return text, err
}

func (f Finder) attribute(name, attribute string) (string, error) {
	data, err := os.ReadFile(filepath.Join(f.Sys, name, attribute))
	return strings.TrimSpace(string(data)), err
}

// XenName is what the kernel calls a disk that was attached by this name on Xen: /dev/sdf and
// /dev/xvdf are both xvdf. Empty: no such name.
func XenName(attachedAs string) string {
	name := strings.TrimPrefix(attachedAs, "/dev/")
	if rest, ok := strings.CutPrefix(name, "sd"); ok {
		name = "xvd" + rest
	}
	if !strings.HasPrefix(name, "xvd") || strings.Contains(name, "/") {
		return ""
	}
	return name
}

// Path is the node of a disk in /dev.
func (f Finder) Path(name string) string { return filepath.Join(f.Dev, name) }

// ready says whether a disk can be read: it has a size, and its node in /dev is a node of this very
// disk.
func (f Finder) ready(name, serial string) (Device, error) {
	size, err := f.attribute(name, "size")
	if err != nil {
		return Device{}, fmt.Errorf("%s: %w", name, err)
	}
	sectors, err := strconv.ParseInt(size, 10, 64) // always of 512 bytes
	if err != nil || sectors < 0 || sectors > 1<<53 {
		return Device{}, fmt.Errorf("%s: its size in sysfs is %q", name, size)
	}
	if sectors == 0 {
		return Device{}, fmt.Errorf("%s is here, but its size is still 0", name)
	}
	number, err := f.attribute(name, "dev")
	if err != nil {
		return Device{}, fmt.Errorf("%s: %w", name, err)
	}
	path := f.Path(name)
	var node unix.Stat_t
	if err := unix.Stat(path, &node); errors.Is(err, fs.ErrNotExist) {
		return Device{}, fmt.Errorf("%s is here, but %s is not", name, path)
	} else if err != nil {
		return Device{}, fmt.Errorf("%s: %w", path, err)
	}
	dev := Device{
		Name: name, Path: path, Bytes: sectors * 512, Serial: serial,
		Major: unix.Major(node.Rdev), Minor: unix.Minor(node.Rdev),
	}
	if node.Mode&unix.S_IFMT != unix.S_IFBLK || number != dev.number() {
		return Device{}, fmt.Errorf("%s is not a node of the disk %s (%s)", path, name, number)
	}
	return dev, nil
}

func (d Device) number() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

// Verify looks again, just before a mount: dev is still the disk that Find found, and still carries
// the volume's serial. Anything else, an unreadable serial too, is an error: the wrong disk is
// worse than none (the CSI driver's own check fails open, #1224).
func (f Finder) Verify(dev Device, volumeID string) error {
	serial := ""
	if dev.Serial != "" {
		var err error
		if serial, err = f.serial(dev.Name); err != nil {
			return fmt.Errorf("read the serial of %s again: %w", dev.Name, err)
		}
		if serial != Serial(volumeID) {
			return advice.Try(fmt.Errorf("%s is now %s, not %s: the disks were reordered", dev.Name, serial, volumeID), "ebs-release-agent up")
		}
	}
	now, err := f.ready(dev.Name, serial)
	if err != nil {
		return fmt.Errorf("look at %s again: %w", volumeID, err)
	}
	if now != dev {
		return fmt.Errorf("%s changed under us: %+v, it was %+v", dev.Name, now, dev)
	}
	return nil
}

// Which finds the disk with this number: its name in the kernel, and its serial when it is an NVMe
// disk.
func (f Finder) Which(major, minor uint32) (name, serial string, err error) {
	entries, err := os.ReadDir(f.Sys)
	if err != nil {
		return "", "", err
	}
	want := Device{Major: major, Minor: minor}.number()
	for _, entry := range entries {
		if number, err := f.attribute(entry.Name(), "dev"); err != nil || number != want {
			continue
		}
		if !nvmeDisk.MatchString(entry.Name()) {
			return entry.Name(), "", nil
		}
		serial, err := f.serial(entry.Name())
		if err != nil {
			return "", "", fmt.Errorf("read the serial of %s: %w", entry.Name(), err)
		}
		return entry.Name(), serial, nil
	}
	return "", "", fmt.Errorf("there is no disk %s in %s", want, f.Sys)
}

// Below says whether the disk with this number is that of a volume, by its serial, or on Xen, which
// has none, by the name that the volume is attached as.
func (f Finder) Below(major, minor uint32, volumeID, attachedAs string) bool {
	name, serial, err := f.Which(major, minor)
	return err == nil && IsDisk(name, serial, volumeID, attachedAs)
}

// IsDisk is Below for a disk that Which has found.
func IsDisk(name, serial, volumeID, attachedAs string) bool {
	return serial == Serial(volumeID) || serial == "" && name == XenName(attachedAs)
}

// The I/O timeout of the kernel's NVMe driver is 30 s; a cold block of a volume made from a
// snapshot was seen to take 60 s, and AWS says to set it as high as it goes
// (https://docs.aws.amazon.com/ebs/latest/userguide/timeout-nvme-ebs-volumes.html). In
// milliseconds.
const (
	lowTimeout    = 240_000
	raisedTimeout = 600_000
)

// RaiseTimeout gives slow reads of a volume made from a snapshot more time than the driver does. A
// disk without that setting is left as it is: this is a help, not a condition.
func (f Finder) RaiseTimeout(dev Device) {
	text, err := f.attribute(dev.Name, "queue/io_timeout")
	if err != nil {
		return
	}
	milliseconds, err := strconv.ParseUint(text, 10, 64)
	if err != nil || milliseconds >= lowTimeout {
		return
	}
	path := filepath.Join(f.Sys, dev.Name, "queue/io_timeout")
	if err := os.WriteFile(path, []byte(strconv.Itoa(raisedTimeout)), 0); err != nil {
		f.Log.Warn("the I/O timeout of the disk is low and cannot be raised", "device", dev.Name, "milliseconds", milliseconds, "error", err)
		return
	}
	f.Log.Info("raised the I/O timeout of the disk", "device", dev.Name, "from_ms", milliseconds, "to_ms", raisedTimeout)
}
