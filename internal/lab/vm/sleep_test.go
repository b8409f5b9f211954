package vm

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// A machine that hibernates goes on where it was, with the disks that came while it ran.
func TestHibernatedMachineGoesOn(t *testing.T) {
	dir := t.TempDir()
	sw := newSwitch(t)
	key, public := newKey(t, dir)
	image, err := goldenImage(t).Install(within(t, bootTime), dir, Extras{AuthorizedKey: public})
	if err != nil {
		t.Fatal(err)
	}
	m, err := Start(t.Context(), Spec{
		ID: "i-0123456789abcdef0", Image: image, Dir: dir, Switch: sw, Address: netip.MustParseAddr("10.44.0.9"), KeyFile: key,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer showConsole(t, m)
	defer func() {
		if err := m.Destroy(); err != nil {
			t.Error(err)
		}
	}()
	if err := m.Booted(within(t, bootTime)); err != nil {
		t.Fatal(err)
	}
	if err := m.Plug(t.Context(), Disk{Name: "vol-0123456789abcdef0", Serial: "vol0123456789abcdef0", File: newVolume(t, "volume")}); err != nil {
		t.Fatal(err)
	}
	boot := must(t, m, "sh", "-ec", "until [ -b /dev/nvme1n1 ]; do sleep 0.1; done; mkfs.ext4 -q /dev/nvme1n1; mount /dev/nvme1n1 /mnt; "+
		"echo in memory > /run/kept; cat /proc/sys/kernel/random/boot_id")
	for range 2 {
		began := time.Now()
		if err := m.Hibernate(within(t, bootTime)); err != nil {
			t.Fatal(err)
		}
		slept := time.Now()
		if m.On() {
			t.Fatal("it has power")
		}
		if err := m.PowerOn(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := m.Booted(t.Context()); err != nil { // the mark of the boot that goes on
			t.Error(err)
		}
		if got := must(t, m, "sh", "-ec", "echo x > /mnt/written; sync -f /mnt; cat /proc/sys/kernel/random/boot_id; cat /run/kept"); got != boot+"in memory\n" {
			t.Errorf("it goes on as %q, and was %q", got, boot)
		}
		t.Logf("asleep in %.1f s, awake in %.1f s", slept.Sub(began).Seconds(), time.Since(slept).Seconds())
	}
	// It can boot after that, too, and then forgets what was in memory.
	if err := m.Reboot(within(t, bootTime)); err != nil {
		t.Fatal(err)
	}
	if err := m.Booted(within(t, bootTime)); err != nil {
		t.Fatal(err)
	}
	if got := must(t, m, "sh", "-c", "cat /proc/sys/kernel/random/boot_id; cat /run/kept 2>/dev/null || true"); got == boot || strings.Contains(got, "memory") {
		t.Errorf("after a reboot it is %q, and was %q", got, boot)
	}
}
