package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// Disk is a volume to show to a machine as an NVMe disk of its own controller, as EBS does.
type Disk struct {
	Name   string   // names it towards Unplug: the volume id
	Serial string   // what the controller says: vol0123456789abcdef0
	File   *os.File // its bytes; the machine closes it when the disk is unplugged or the machine is destroyed
}

func (d *Disk) node() string { return "disk-" + digest(d.Name)[:16] } // at most 31 characters

// blockdev describes the file to qemu. Writes that qemu has acknowledged are in the file, for
// readers of the file too, and survive the end of qemu: as on EBS, where an acknowledged write
// survives the end of the instance. What the guest holds in its own page cache is lost, a write
// under way may be torn.
func (d *Disk) blockdev() map[string]any {
	// A path in /proc, since the file may lie on a file system that is mounted nowhere, or may have
	// no name.
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), d.File.Fd())
	return map[string]any{
		"driver": "raw", "node-name": d.node(), "discard": "unmap", "cache": noFlush,
		"file": map[string]any{"driver": "file", "filename": path, "discard": "unmap", "cache": noFlush},
	}
}

func (d *Disk) device(slot int) map[string]any {
	serial := d.Serial
	if serial == "" {
		serial = " " // qemu wants one; NVMe pads serials with spaces, so this reads as none
	}
	return map[string]any{"driver": "nvme", "id": d.node(), "drive": d.node(), "serial": serial, "bus": port(slot)}
}

// Plug gives the machine a disk: at once when it is on, and again at each power on, until Unplug.
func (m *Machine) Plug(ctx context.Context, d Disk) error {
	m.mu.Lock()
	slot := m.slot(d.Name)
	if slot >= 0 {
		m.mu.Unlock()
		return fmt.Errorf("plug %s into %s: it is there already", d.Name, m.ID)
	}
	if slot = slices.Index(m.slots, nil); slot < 0 {
		m.mu.Unlock()
		return fmt.Errorf("plug %s into %s: all %d slots are taken", d.Name, m.ID, len(m.slots))
	}
	m.slots[slot] = &d // from here on a power on gives it as well
	b := m.boot
	m.mu.Unlock()
	if b == nil {
		return nil
	}
	err := b.plug(ctx, &d, slot)
	if err == nil || errors.Is(err, errNoPower) {
		return nil // the next power on gives it
	}
	m.mu.Lock()
	m.slots[slot] = nil
	m.mu.Unlock()
	return fmt.Errorf("plug %s into %s: %w", d.Name, m.ID, err)
}

func (b *boot) plug(ctx context.Context, d *Disk, slot int) error {
	err := b.qmp.do(ctx, "blockdev-add", d.blockdev())
	if err == nil {
		if err = b.qmp.do(ctx, "device_add", d.device(slot)); err != nil && !errors.Is(err, errNoPower) {
			err = errors.Join(err, b.qmp.do(ctx, "blockdev-del", map[string]any{"node-name": d.node()}))
		}
	}
	return err
}

// Unplug takes the disk out of the machine, mounted or not, and closes its file; the guest sees its
// file system fail. It returns when the guest has let go of the controller. A disk that is not
// there is no error.
func (m *Machine) Unplug(ctx context.Context, name string) error {
	for {
		m.mu.Lock()
		slot := m.slot(name)
		if slot < 0 {
			m.mu.Unlock()
			return nil
		}
		d, b := m.slots[slot], m.boot
		if b == nil || !b.process.Running() {
			m.slots[slot] = nil
			m.mu.Unlock()
			return d.File.Close()
		}
		m.mu.Unlock()
		err := b.unplug(ctx, d)
		if errors.Is(err, errNoPower) {
			<-b.process.Done // qemu hung up: it is about to end
			continue
		}
		if err != nil {
			return fmt.Errorf("unplug %s from %s: %w", name, m.ID, err)
		}
		m.mu.Lock()
		m.slots[slot] = nil
		m.mu.Unlock()
		return d.File.Close()
	}
}

// unplugAgain is how long qemu keeps a request that the guest did not answer, for instance since it
// was still booting.
const unplugAgain = 2 * time.Second

func (b *boot) unplug(ctx context.Context, d *Disk) error {
	mark := b.qmp.mark()
	var refused error
	for {
		// A refusal is no reason to stop: the request before may still be under way.
		if refused = b.qmp.do(ctx, "device_del", map[string]any{"id": d.node()}); errors.Is(refused, errNoPower) {
			return refused
		}
		patience, cancel := context.WithTimeout(ctx, unplugAgain)
		err := b.qmp.wait(patience, mark, "DEVICE_DELETED", d.node())
		cancel()
		if err == nil {
			return b.qmp.do(ctx, "blockdev-del", map[string]any{"node-name": d.node()})
		}
		if errors.Is(err, errNoPower) {
			return err
		}
		if ctx.Err() != nil {
			return errors.Join(fmt.Errorf("the guest does not let go of it: %w", context.Cause(ctx)), refused)
		}
	}
}

// Hang has a plugged disk answer nothing any more, or answer again: qemu serves it a byte a second,
// so that no request comes to its end while a test looks. It holds until the machine is off.
func (m *Machine) Hang(ctx context.Context, name string, hang bool) error {
	m.mu.Lock()
	slot, b := m.slot(name), m.boot
	m.mu.Unlock()
	if slot < 0 || b == nil {
		return fmt.Errorf("hang %s of %s: it is not there", name, m.ID)
	}
	limits := map[string]any{"id": (&Disk{Name: name}).node()}
	for _, limit := range []string{"bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"} {
		limits[limit] = 0 // none
	}
	if hang {
		limits["bps"] = 1
	}
	if err := b.qmp.do(ctx, "block_set_io_throttle", limits); err != nil {
		return fmt.Errorf("hang %s of %s: %w", name, m.ID, err)
	}
	return nil
}

// Disks are the names of the plugged disks, in the order of their slots.
func (m *Machine) Disks() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, d := range m.slots {
		if d != nil {
			names = append(names, d.Name)
		}
	}
	return names
}

// ReverseDisks turns the order of the slots round, so that the kernel finds the disks in the other
// order at the next power on: EC2 promises none.
func (m *Machine) ReverseDisks() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.boot != nil && m.boot.process.Running() {
		return fmt.Errorf("reverse the disks of %s: it is on", m.ID)
	}
	slices.Reverse(m.slots)
	return nil
}

// slot of a disk, -1 when it is not there.
func (m *Machine) slot(name string) int {
	return slices.IndexFunc(m.slots, func(d *Disk) bool { return d != nil && d.Name == name })
}
