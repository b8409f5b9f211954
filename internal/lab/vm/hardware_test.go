package vm

import (
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/disk"
)

// An account's life with one instance: a volume is attached while the machine boots, the power
// fails in the middle of that boot, a snapshot is taken of the volume in use, the volume moves on
// when the instance is stopped.
func TestAccountKeepsAVolumeAttachedWhateverTheMachineDoes(t *testing.T) {
	dir := t.TempDir()
	sw := newSwitch(t)
	key, public := newKey(t, dir)
	image, err := goldenImage(t).Install(within(t, bootTime), dir, Extras{AuthorizedKey: public})
	if err != nil {
		t.Fatal(err)
	}
	store, err := disk.Open(t.Context(), dir, "vm-test", slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(within(t, time.Minute)); err != nil {
			t.Error(err)
		}
	}()
	hw := NewHardware(store, func(cloud.InstanceSpec) (Spec, error) {
		return Spec{Image: image, Dir: dir, Switch: sw, KeyFile: key}, nil
	})
	defer func() {
		if err := hw.Close(); err != nil {
			t.Error(err)
		}
	}()
	const id, volume = "i-0aaaaaaaaaaaaaaa0", "vol-0aaaaaaaaaaaaaaa1"
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(store.CreateVolume(volume, 1, ""))
	check(hw.Launch(t.Context(), cloud.InstanceSpec{ID: id, Address: netip.MustParseAddr("10.44.0.10")}))
	check(hw.Attach(t.Context(), cloud.AttachSpec{VolumeID: volume, InstanceID: id, DeviceName: "/dev/xvdaa"}))
	m := hw.Get(id)
	defer showConsole(t, m)

	_, err = m.WaitConsole(within(t, bootTime), regexp.MustCompile("Welcome"))
	check(err)
	m.PowerCut()
	check(m.PowerOn(t.Context()))
	if out := must(t, m, "cat", "/sys/block/nvme1n1/device/serial"); strings.TrimSpace(out) != cloud.SerialOf(volume) {
		t.Errorf("after the power cut the serial is %q", out)
	}

	must(t, m, "sh", "-ec", "mkfs.ext4 -q /dev/nvme1n1; mount /dev/nvme1n1 /mnt; echo first >/mnt/file; fsfreeze -f /mnt")
	check(store.CreateSnapshot("snap-1", volume))
	must(t, m, "sh", "-ec", "fsfreeze -u /mnt; echo second >/mnt/file; umount /mnt")
	check(store.CreateVolume("vol-copy", 1, "snap-1"))
	check(hw.Attach(t.Context(), cloud.AttachSpec{VolumeID: "vol-copy", InstanceID: id}))
	if out := must(t, m, "sh", "-ec", "until [ -b /dev/nvme2n1 ]; do sleep 0.05; done; mount /dev/nvme2n1 /mnt; cat /mnt/file; umount /mnt"); out != "first\n" {
		t.Errorf("the snapshot of a frozen file system holds %q", out)
	}

	before := must(t, m, "cat", "/proc/sys/kernel/random/boot_id")
	check(m.Reboot(within(t, bootTime)))
	if after := must(t, m, "cat", "/proc/sys/kernel/random/boot_id"); after == before {
		t.Error("no new boot after the reboot")
	}

	check(hw.Stop(t.Context(), id))
	if m.On() {
		t.Error("a stopped instance has power")
	}
	check(hw.Detach(t.Context(), volume, id, false))
	check(hw.Detach(t.Context(), volume, id, false)) // it is gone already
	check(store.DeleteVolume(volume))
	if got := m.Disks(); len(got) != 1 || got[0] != "vol-copy" {
		t.Errorf("the stopped machine has the disks %v", got)
	}

	answered := hw.MetadataOf(func(instance string) http.Handler {
		if instance != id {
			t.Errorf("asked for the metadata of %s", instance)
		}
		return http.NotFoundHandler()
	})
	if answered(netip.MustParseAddr("10.44.0.10")) == nil || answered(netip.MustParseAddr("10.44.0.11")) != nil {
		t.Error("machines are not told apart by their address")
	}
	check(hw.Terminate(t.Context(), id))
	if err := hw.Attach(t.Context(), cloud.AttachSpec{VolumeID: "vol-copy", InstanceID: id}); err == nil {
		t.Error("a volume was attached to a terminated instance")
	}
	if err := hw.Attach(t.Context(), cloud.AttachSpec{SizeZero: true}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a disk of size zero: %v", err)
	}
}
