package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
)

// memoryFile is where EC2's hibernation agent puts what is in memory: a swap file on root, of which
// the kernel's command line says where it is (amazon-ec2-hibinit-agent, hibinit-agent).
const memoryFile = "/swap-hibinit"

// swap makes that file, as large as the memory, and says on which block of root it begins.
const swap = `test -e "$1" || { fallocate -l "$2M" "$1"; chmod 600 "$1"; mkswap --quiet "$1"; swapon "$1"; sync; }
echo 0 > /sys/power/image_size # caches can be read again
filefrag -v "$1" | awk '$1 == "0:" { print $4 + 0 }'`

// Hibernate runs "systemctl hibernate" in the machine and returns when it has switched itself off.
// PowerOn resumes it: marks stay, as it is the same boot that goes on.
func (m *Machine) Hibernate(ctx context.Context) error {
	room, err := m.Run(ctx, "sh", "-ec", swap, "sh", memoryFile, fmt.Sprint(m.spec.MemoryMiB))
	if err != nil {
		return err
	}
	off := m.Off()
	out, err := m.Run(ctx, "systemctl", "hibernate")
	if err != nil && out.Code != 255 && !errors.Is(err, errNoPower) { // 255: the connection went first
		return err
	}
	select {
	case <-off:
	case <-ctx.Done():
		return fmt.Errorf("hibernate %s: it still runs: %w", m.ID, context.Cause(ctx))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asleep, m.resume = true, "resume=PARTUUID="+partUUID+" resumewait resume_offset="+strings.TrimSpace(room.Stdout)+" loglevel=7"
	return nil
}

// late are the disks, by slot, that came after the boot that a power on will resume.
func (m *Machine) late() map[int]*Disk {
	m.mu.Lock()
	defer m.mu.Unlock()
	late := map[int]*Disk{}
	for slot, d := range m.slots {
		if m.asleep && d != nil && d != m.first[slot] {
			late[slot] = d
		}
	}
	return late
}

// plugLate gives disks to a machine that resumes, once its firmware is through: that reserves
// memory for each disk that it finds, and a kernel resumes only where the map of the memory is the
// one of the boot ("Hibernate inconsistent memory map detected!").
func (m *Machine) plugLate(ctx context.Context, disks map[int]*Disk) error {
	if len(disks) == 0 {
		return nil
	}
	if _, err := m.WaitConsole(ctx, regexp.MustCompile("Linux version")); err != nil {
		return err
	}
	b := m.current()
	for slot, d := range disks {
		if err := b.plug(ctx, d, slot); err != nil {
			return fmt.Errorf("plug %s into %s, which resumes: %w", d.Name, m.ID, err)
		}
	}
	return nil
}

// newRoot gives a machine that is off a new disk over an image.
func (m *Machine) newRoot(ctx context.Context, image *Image) error {
	m.mu.Lock()
	m.cut() // it switched itself off
	m.spec.Image, m.asleep, m.resume = image, false, ""
	m.mu.Unlock()
	if err := os.Remove(m.overlay()); err != nil {
		return err
	}
	return run(exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", image.format, "-b", image.Disk, m.overlay()))
}
