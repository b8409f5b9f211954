package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Disk is what a host sees of an attached volume.
type Disk struct {
	Name         string // nvme1n1; "" takes the first free one
	Serial       string // vol0123456789abcdef0
	Major, Minor uint32 // the device behind it
	Bytes        int64  // its size
}

// model is what a volume answers to "Identify Controller" on EC2, padded as sysfs shows it.
const model = "Amazon Elastic Block Store              "

// Plug makes a disk appear in the host's /dev and /sys, complete at once, and returns its kernel
// name. A disk that has the name already is replaced.
func (h *Host) Plug(d Disk) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	name, err := h.plug(d)
	if err != nil {
		return "", fmt.Errorf("plug disk %s into %s: %w", d.Serial, h.ID, err)
	}
	return name, nil
}

func (h *Host) plug(d Disk) (string, error) {
	name := d.Name
	for n := 1; name == ""; n++ { // nvme0n1 is the root volume on EC2
		if candidate := fmt.Sprintf("nvme%dn1", n); !h.has(candidate) {
			name = candidate
		}
	}
	if h.has(name) {
		if err := h.remove(name); err != nil {
			return "", err
		}
	}
	number := fmt.Sprintf("%d:%d", d.Major, d.Minor)
	files := map[string]string{
		"dev": number, "size": fmt.Sprint(d.Bytes / 512), "ro": "0", "removable": "0",
		"device/serial": fmt.Sprintf("%-20s", d.Serial), "device/model": model, "device/state": "live",
		"queue/io_timeout": "30000", "queue/logical_block_size": "512", "queue/physical_block_size": "512",
		"queue/rotational": "0", "queue/read_ahead_kb": "128",
		"uevent": fmt.Sprintf("MAJOR=%d\nMINOR=%d\nDEVNAME=%s\nDEVTYPE=disk", d.Major, d.Minor, name),
	}
	view, hidden := filepath.Join(h.directory(), "sys"), filepath.Join(h.directory(), "sys/hidden-"+name)
	for file, text := range files {
		path := filepath.Join(hidden, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text+"\n"), 0o644)); err != nil {
			return "", err
		}
	}
	if err := makeNode(filepath.Join(h.directory(), "dev", name), unix.S_IFBLK|0o660, d.Major, d.Minor); err != nil {
		return "", err
	}
	return name, errors.Join(
		os.Rename(hidden, filepath.Join(view, "block", name)),
		os.Symlink("../../block/"+name, filepath.Join(view, "class", name)),
		os.Symlink("../../block/"+name, filepath.Join(view, "dev", number)),
	)
}

// Unplug takes a disk out of the host's /dev and /sys. It waits while the host has it mounted, as
// EC2 does ("busy"); by force it makes every further access to the disk fail instead. A disk that
// is not there is no error.
func (h *Host) Unplug(ctx context.Context, name string, force bool) error {
	for h.mounted(name) {
		if force {
			h.pull(name)
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("unplug disk %s from %s: it is mounted there: %w", name, h.ID, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond): // as EC2, we have no way to be told
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.has(name) {
		return nil
	}
	if err := h.remove(name); err != nil {
		return fmt.Errorf("unplug disk %s from %s: %w", name, h.ID, err)
	}
	return nil
}

// Disks are the serials of the plugged disks by kernel name.
func (h *Host) Disks() map[string]string {
	disks := map[string]string{}
	entries, _ := os.ReadDir(filepath.Join(h.directory(), "sys/block")) // a destroyed host has none
	for _, e := range entries {
		serial, _ := os.ReadFile(filepath.Join(h.directory(), "sys/block", e.Name(), "device/serial"))
		disks[e.Name()] = strings.TrimSpace(string(serial))
	}
	return disks
}

func (h *Host) remove(name string) error {
	view := filepath.Join(h.directory(), "sys")
	number, err := os.ReadFile(filepath.Join(view, "block", name, "dev"))
	if err != nil {
		return err
	}
	hidden := filepath.Join(view, "hidden-"+name)
	return errors.Join(
		os.Remove(filepath.Join(view, "class", name)),
		os.Remove(filepath.Join(view, "dev", strings.TrimSpace(string(number)))),
		os.Rename(filepath.Join(view, "block", name), hidden), // gone as a whole
		os.RemoveAll(hidden),
		os.Remove(filepath.Join(h.directory(), "dev", name)),
	)
}

// mounted says whether the running host has the disk mounted.
func (h *Host) mounted(name string) bool {
	m := diskMounts(h.PID())
	defer m.close()
	return m.has(h.deviceOf(name))
}

// pull makes the file systems on the disk fail.
func (h *Host) pull(name string) {
	m := diskMounts(h.PID())
	defer m.close()
	m.shutdown(h.deviceOf(name))
}

// deviceOf is the device number of a disk, 0 when it is not there.
func (h *Host) deviceOf(name string) uint64 {
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(h.directory(), "dev", name), &st); err != nil {
		return 0
	}
	return st.Rdev
}

func (h *Host) has(name string) bool {
	_, err := os.Lstat(filepath.Join(h.directory(), "sys/block", name))
	return err == nil
}
