package e2evm

import (
	"fmt"
	"strings"
	"testing"

	"ebs-release/internal/lab/cloud"
)

func TestVMFileSystems(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			r := newRig(t, setup{fileSystem: kind})
			m := r.launch(member)
			device := func() string { return r.on(m, "findmnt -n -o SOURCE,FSTYPE /release") }
			r.ready(m, "one")
			first := device()
			if !strings.HasSuffix(first, " "+kind) {
				t.Errorf("at /release is %s", first)
			}
			t.Run("two disks with one file system, in the other order", func(t *testing.T) {
				r := r.in(t)
				// Another volume from the same snapshot: the same UUID. It is mounted at boot,
				// before the agent's.
				data := r.volume(r.current())
				r.attach(data, m.ID, "/dev/sdf")
				link := "/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_" + cloud.SerialOf(data)
				r.on(m, fmt.Sprintf("mkdir /data; echo '%s /data %s defaults 0 0' >>/etc/fstab; sync /etc/fstab", link, kind))
				r.stop(m)
				must(t, m.ReverseDisks())
				r.start(m)
				r.ready(m, "one")
				if second := device(); second == first {
					t.Errorf("/release is on %s as before: the disks are in the same order", second)
				}
				if got := r.on(m, "cat /sys/block/$(basename $(findmnt -n -o SOURCE /data))/device/serial"); strings.TrimSpace(got) != cloud.SerialOf(data) {
					t.Errorf("at /data is %s, want %s", got, data)
				}
			})
			t.Run("dirty snapshot", func(t *testing.T) {
				r := r.in(t)
				r.sh("cd /release; seq 1000 | xargs touch; sync .; seq 1000 | xargs rm")
				volume, err := r.lab.ServerVolume()
				must(t, err)
				r.pointTo(r.snapshot(volume))
				m := r.launch(member)
				r.ready(m, "one")
				if got := r.on(m, "dmesg | grep -i recover || true"); got == "" {
					t.Error("the kernel had no journal to recover: the snapshot was clean")
				}
			})
		})
	}
}
