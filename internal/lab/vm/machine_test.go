package vm

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// bootTime is long for a boot, which takes seconds: what it ends is a test that would wait for
// ever, on a machine however busy.
const bootTime = 10 * time.Minute

// One machine goes through its life, since each boot of an emulated machine takes many seconds.
func TestMachineKeepsDisksOverPowerCutAndShutdown(t *testing.T) {
	dir := t.TempDir()
	sw := newSwitch(t)
	key, public := newKey(t, dir)
	image, err := goldenImage(t).Install(within(t, bootTime), dir, Extras{
		AuthorizedKey: public,
		Files: map[string]File{
			"/etc/systemd/system/greet.service": {Data: "[Service]\nType=oneshot\nExecStart=/usr/local/bin/greet\nStandardOutput=file:" + MarkPort + "\n" +
				"[Unit]\nWants=network-online.target\nAfter=network-online.target\n[Install]\nWantedBy=multi-user.target\n"},
			"/usr/local/bin/greet": {Data: "#!/bin/sh\nwho=$(curl -fsS --max-time 60 http://169.254.169.254/who)\necho $who endpoint=$AWS_ENDPOINT_URL\n", Mode: 0o755},
		},
		Commands: []string{"systemctl --quiet enable greet"},
	})
	if err != nil {
		t.Fatal(err)
	}
	metadata, err := sw.ServeMetadata(t.Context(), func(machine netip.Addr) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "you are %s\n", machine) })
	})
	if err != nil {
		t.Fatal(err)
	}
	defer metadata.Close()

	began := time.Now()
	m, err := Start(t.Context(), Spec{
		ID: "i-0123456789abcdef0", Image: image, Dir: dir, Switch: sw, Address: netip.MustParseAddr("10.44.0.9"), KeyFile: key,
		Environment: []string{"AWS_ENDPOINT_URL=http://10.44.0.1:4566"},
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
	t.Logf("boot to multi-user: %.1f s", time.Since(began).Seconds())
	// A unit reached the metadata service, which knows the machine by its address, and has the
	// machine's environment.
	if err := m.WaitMark(within(t, time.Minute), "you are 10.44.0.9 endpoint=http://10.44.0.1:4566"); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	out := must(t, m, "sh", "-c", "hostname; cat /etc/machine-id; cat /sys/class/dmi/id/sys_vendor; echo $AWS_ENDPOINT_URL; systemctl is-system-running --wait")
	t.Logf("first login: %.1f s", time.Since(began).Seconds())
	if want := "ip-10-44-0-9\n" + machineID(m.ID) + "\nAmazon EC2\nhttp://10.44.0.1:4566\nrunning\n"; out != want {
		t.Errorf("the machine is %q, want %q", out, want)
	}
	began = time.Now()
	must(t, m, "true")
	t.Logf("command: %.2f s", time.Since(began).Seconds())
	hostKey := must(t, m, "cat", "/etc/ssh/ssh_host_ed25519_key.pub")

	// A disk comes while it runs.
	volume := newVolume(t, "volume")
	began = time.Now()
	if err := m.Plug(t.Context(), Disk{Name: "vol-0123456789abcdef0", Serial: "vol0123456789abcdef0", File: volume}); err != nil {
		t.Fatal(err)
	}
	must(t, m, "sh", "-c", "until [ -b /dev/nvme1n1 ]; do sleep 0.02; done")
	t.Logf("hot-plug to device, by ssh: %.2f s", time.Since(began).Seconds())
	if out := must(t, m, "cat", "/sys/block/nvme1n1/device/serial"); strings.TrimSpace(out) != "vol0123456789abcdef0" {
		t.Errorf("the serial of nvme1n1 is %q", out)
	}
	if err := m.Plug(t.Context(), Disk{Name: "vol-0123456789abcdef0", Serial: "again", File: volume}); err == nil {
		t.Error("the same disk was plugged twice")
	}
	must(t, m, "sh", "-ec", "mkfs.ext4 -q /dev/nvme1n1; mount /dev/nvme1n1 /mnt; echo kept >/mnt/synced; sync /mnt/synced; sync /mnt; sync -f /mnt; sync -f /; echo lost >/mnt/unsynced")

	// What was synced outlives a power cut, on the volume and on root; what was not does not. A
	// second disk was plugged meanwhile; they come in the other order.
	m.PowerCut()
	if m.On() {
		t.Error("the machine is on after a power cut")
	}
	if _, err := m.Run(within(t, time.Second), "true"); !errors.Is(err, errNoPower) {
		t.Errorf("a command on a machine without power: %v", err)
	}
	if err := m.Plug(t.Context(), Disk{Name: "vol-b", Serial: "volb", File: newVolume(t, "b")}); err != nil {
		t.Fatal(err)
	}
	if err := m.ReverseDisks(); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	if err := m.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	must(t, m, "true")
	t.Logf("power on to first login: %.1f s", time.Since(began).Seconds())
	script := `for d in /sys/block/nvme*; do s=$(cat $d/device/serial); echo $s; case $s in vol0123456789abcdef0*) disk=/dev/${d##*/};; esac; done
		mount $disk /mnt; ls /mnt`
	if out, want := must(t, m, "sh", "-ec", script), "root\nvolb\nvol0123456789abcdef0\nlost+found\nsynced\n"; strings.Join(strings.Fields(out), "\n")+"\n" != want {
		t.Errorf("after the power cut the machine has %q, want %q", out, want)
	}
	if out := must(t, m, "cat", "/etc/ssh/ssh_host_ed25519_key.pub"); out != hostKey {
		t.Error("the host key is another one after the power cut")
	}

	// A disk goes, even while mounted, and its file can be read.
	began = time.Now()
	must(t, m, "sh", "-c", "echo more >/mnt/more; sync /mnt/more")
	if err := m.Unplug(within(t, bootTime), "vol-b"); err != nil {
		t.Fatal(err)
	}
	if err := m.Unplug(within(t, bootTime), "vol-0123456789abcdef0"); err != nil {
		t.Fatal(err)
	}
	t.Logf("unplug of two: %.2f s", time.Since(began).Seconds())
	if out := must(t, m, "sh", "-c", "cat /sys/block/nvme*/device/serial"); strings.TrimSpace(out) != "root" {
		t.Errorf("after unplug the serials are %q", out)
	}
	if _, err := volume.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the file of an unplugged disk is still open: %v", err)
	}

	// The power button works.
	began = time.Now()
	monitor := m.current().qmp
	if err := m.Shutdown(t.Context(), bootTime); err != nil {
		t.Fatal(err)
	}
	t.Logf("shutdown: %.1f s", time.Since(began).Seconds())
	<-monitor.ended
	if !slices.ContainsFunc(monitor.events, func(e message) bool { return e.Event == "SHUTDOWN" && e.Data.Reason == "guest-shutdown" }) {
		t.Errorf("the machine went off without a shutdown: %+v", monitor.events)
	}

	// Its disk is an image for others, as Packer makes an AMI.
	baked, err := m.Bake()
	if err != nil {
		t.Fatal(err)
	}
	other, err := Start(t.Context(), Spec{ID: "i-other", Image: baked, Dir: dir, Switch: sw, Address: netip.MustParseAddr("10.44.0.10"), KeyFile: key})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Booted(within(t, bootTime)); err != nil {
		t.Error(err)
	}
	if err := errors.Join(other.Destroy(), m.Destroy()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, m.ID)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the machine's directory is still there: %v", err)
	}
}

// must runs a command that has to go well, and returns its stdout.
func must(t *testing.T, m *Machine, argv ...string) string {
	t.Helper()
	out, err := m.Run(within(t, bootTime), argv...)
	if err != nil {
		t.Fatal(err)
	}
	return out.Stdout
}

func TestNewRefusesWhatCanNotBoot(t *testing.T) {
	dir := t.TempDir()
	sw := Switch{Gateway: netip.MustParsePrefix("10.44.0.1/16")}
	inside := netip.MustParseAddr("10.44.0.9")
	if err := os.Mkdir(filepath.Join(dir, "taken"), 0o700); err != nil {
		t.Fatal(err)
	}
	for want, spec := range map[string]Spec{
		"subnet":      {ID: "i-1", Address: netip.MustParseAddr("10.45.0.9")},
		"spaces":      {ID: "i-1", Address: inside, Environment: []string{"A=b c"}},
		"file exists": {ID: "taken", Address: inside},
	} {
		spec.Dir, spec.Switch, spec.Image = dir, sw, &Image{}
		if _, err := New(t.Context(), spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q: %v", want, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "taken")); err != nil {
		t.Errorf("another machine's directory is gone: %v", err)
	}
}
