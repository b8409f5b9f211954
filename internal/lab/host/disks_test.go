package host

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ebs-release/internal/lab/disk"
	"ebs-release/internal/lab/netns"
)

func TestDiskLooksLikeNVMeAndCanBeMounted(t *testing.T) {
	d, h := newDisk(t), newHost(t, newNetwork(t), 1, nil)
	powerOn(t, h)
	name, err := h.Plug(Disk{Serial: "vol0123456789abcdef0", Major: d.Major, Minor: d.Minor, Bytes: d.Bytes})
	do(t, err)
	if name != "nvme1n1" {
		t.Errorf("the disk is %s", name)
	}
	if got := in(t, h, "cd /sys/block/nvme1n1 && cat device/serial size && cat /sys/class/block/nvme1n1/device/serial /sys/dev/block/$(cat dev)/device/serial && blockdev --getsize64 /dev/nvme1n1"); got !=
		"vol0123456789abcdef0\n2097152\nvol0123456789abcdef0\nvol0123456789abcdef0\n1073741824" {
		t.Errorf("the host sees:\n%s", got)
	}
	in(t, h, "mkfs.ext4 -q /dev/nvme1n1 && mkdir /release && mount /dev/nvme1n1 /release && echo one > /release/file && echo 60000 > /sys/block/nvme1n1/queue/io_timeout")

	powerOff := time.Now()
	do(t, h.PowerOff())
	powerOn(t, h)
	if got := in(t, h, "ls /release; mount /dev/nvme1n1 /release && cat /release/file"); got != "one" {
		t.Errorf("after a reboot (%s): %q", time.Since(powerOff), got)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := h.Unplug(ctx, name, false); err == nil {
		t.Error("a mounted disk was unplugged")
	}
	in(t, h, "umount /release")
	do(t, h.Unplug(t.Context(), name, false))
	if got := in(t, h, "ls /sys/block /sys/class/block /sys/dev/block; ls /dev/nvme1n1 2>&1 || true"); strings.Contains(got, "nvme1n1\n") {
		t.Errorf("the host still sees:\n%s", got)
	}
}

func TestHostHearsTheKernelsEventOfADisk(t *testing.T) {
	d, h := newDisk(t), newHost(t, newNetwork(t), 1, nil)
	var socket int
	do(t, netns.Do(h.namespace, func() (err error) {
		if socket, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT); err != nil {
			return err
		}
		return unix.Bind(socket, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1})
	}))
	defer unix.Close(socket)
	do(t, unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	do(t, d.Announce("add"))
	buf := make([]byte, 8192)
	for {
		n, err := unix.Read(socket, buf)
		if err != nil {
			t.Fatalf("no event of the disk: %v", err)
		}
		if event := string(buf[:n]); strings.HasPrefix(event, "add@") && strings.Contains(event, filepath.Base(d.Path)) && strings.Contains(event, "SUBSYSTEM=block") {
			return
		}
	}
}

func TestDiskPulledOutByForceGivesErrors(t *testing.T) {
	d, h := newDisk(t), newHost(t, newNetwork(t), 1, nil)
	powerOn(t, h)
	_, err := h.Plug(Disk{Serial: "vol1", Major: d.Major, Minor: d.Minor, Bytes: d.Bytes})
	do(t, err)
	in(t, h, "mkfs.xfs -q /dev/nvme1n1 && mkdir /release && mount /dev/nvme1n1 /release && echo one > /release/file")
	do(t, h.Unplug(t.Context(), "nvme1n1", true))
	if got := in(t, h, "ls /sys/block; echo two > /release/file 2>/dev/null || echo refused"); got != "refused" {
		t.Errorf("the host says %q", got)
	}
}

func TestPowerOffFreesAFrozenDisk(t *testing.T) {
	d, h := newDisk(t), newHost(t, newNetwork(t), 1, nil)
	powerOn(t, h)
	_, err := h.Plug(Disk{Serial: "vol1", Major: d.Major, Minor: d.Minor, Bytes: d.Bytes})
	do(t, err)
	in(t, h, "mkfs.ext4 -q /dev/nvme1n1 && mkdir /release && mount /dev/nvme1n1 /release && fsfreeze -f /release && (setsid sh -c 'echo x > /release/blocked' > /dev/null 2>&1 < /dev/null &)")
	do(t, h.PowerOff())
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	do(t, d.Close())
	do(t, d.Gone(ctx))
}

func newDisk(t *testing.T) *disk.Device {
	t.Helper()
	s, err := disk.Open(t.Context(), t.TempDir(), "ebs-lab-test", slog.New(slog.DiscardHandler))
	do(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		do(t, s.Close(ctx))
	})
	do(t, s.CreateVolume("vol-1", 1, ""))
	d, err := s.Attach("vol-1")
	do(t, err)
	return d
}
