package e2evm

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/vm"
)

// TestVMBoots follows one member from boot to boot, since each takes many seconds.
func TestVMBoots(t *testing.T) {
	r := newRig(t, setup{})
	m := r.launch(member)
	t.Run("first boot to a running application", func(t *testing.T) {
		r := r.in(t)
		r.ready(m, "one")
		r.inOrder(m)
	})
	before := r.lab.VolumesFor(m.ID)
	t.Run("reboot adopts the volume", func(t *testing.T) {
		r := r.in(t)
		r.reboot(m)
		r.ready(m, "one")
		r.inOrder(m)
		if after := r.lab.VolumesFor(m.ID); after[0].ID != before[0].ID {
			t.Errorf("the volume was %s and is %s", before[0].ID, after[0].ID)
		}
	})
	t.Run("reboot into a newer generation catches up", func(t *testing.T) {
		r := r.in(t)
		r.publish("two") // the member is in no group: nobody pushes to it
		r.reboot(m)
		r.ready(m, "two")
		r.never(m, "one")
		if after := r.lab.VolumesFor(m.ID); len(after) != 1 || after[0].ID != before[0].ID {
			t.Errorf("the volume was %s and is %s", before[0].ID, after[0].ID)
		}
	})
	t.Run("shutdown stops the application before the release goes", func(t *testing.T) {
		r := r.in(t)
		r.stop(m)
		if !m.Marked(ends("two")) { // else it did not see the release any more
			t.Error("the application did not say on which release it ended")
		}
		volume := r.lab.VolumesFor(m.ID)[0].ID
		r.detach(volume)
		r.attach(volume, r.server.ID, "/dev/sdf")
		disk := "/dev/" + r.sh("basename $(dirname $(dirname $(grep -l "+cloud.SerialOf(volume)+" /sys/block/*/device/serial)))")
		if got := r.sh("dumpe2fs -h " + disk + " 2>&1"); !regexp.MustCompile(`(?m)^Filesystem state: +clean$`).MatchString(got) || strings.Contains(got, "needs_recovery") {
			t.Errorf("the file system was not unmounted:\n%s", got)
		}
		r.sh("e2fsck -f -n " + disk)
		r.detach(volume)
		r.attach(volume, m.ID, "/dev/xvdaa")
	})
	t.Run("stop and start adopts the volume", func(t *testing.T) {
		r := r.in(t)
		before := r.lab.VolumesFor(m.ID)
		r.start(m)
		r.ready(m, "two")
		if after := r.lab.VolumesFor(m.ID); after[0].ID != before[0].ID {
			t.Errorf("the volume was %s and is %s", before[0].ID, after[0].ID)
		}
		r.wentDown(m)
	})
}

// wentDown looks up in the journal how the boot before this one ended: the application had stopped
// when /release was unmounted, and nothing failed.
func (r *rig) wentDown(m *vm.Machine) {
	r.Helper()
	const stopped = "journalctl --quiet --boot=-1 --output=cat --output-fields=UNIT _PID=1 JOB_TYPE=stop JOB_RESULT=done UNIT=application.service UNIT=release.mount"
	if got := r.on(m, stopped); got != "application.service\nrelease.mount" {
		r.Errorf("the application was stopped, and /release unmounted: not these two, in this order, in\n%s", got)
	}
	// sd-messages(3): a job failed, a unit failed.
	const failures = "journalctl --quiet --boot=-1 --output=cat _PID=1 MESSAGE_ID=be02cf6855d2428ba40df7e9d022f03d MESSAGE_ID=d9b373ed55a64feb8242e02dbe79a49c"
	if got := r.on(m, failures); got != "" {
		r.Errorf("in the boot before this one, or in its shutdown, something failed:\n%s", got)
	}
}

// inOrder fails unless the agent was ready, then the target was reached, then the application
// started, with no help from systemd.
func (r *rig) inOrder(m *vm.Machine) {
	r.Helper()
	at := func(unit, property string) int64 {
		n, err := strconv.ParseInt(r.properties(m, unit, property)[property], 10, 64)
		must(r, err)
		return n
	}
	agent := at("ebs-release-agent.service", "ActiveEnterTimestampMonotonic")
	target := at("ebs-release.target", "ActiveEnterTimestampMonotonic")
	application := at("application.service", "ExecMainStartTimestampMonotonic")
	if agent == 0 || agent > target || target > application {
		r.Errorf("the agent was ready at %d, the target was reached at %d, the application started at %d", agent, target, application)
	}
	show := r.properties(m, "ebs-release-agent.service", "Type", "SubState", "Result", "NRestarts", "ExecMainStatus")
	for name, want := range map[string]string{"Type": "notify", "SubState": "exited", "Result": "success", "NRestarts": "0", "ExecMainStatus": "0"} {
		if show[name] != want {
			r.Errorf("%s of the agent's unit is %q, want %q", name, show[name], want)
		}
	}
	if got := r.on(m, "systemctl is-system-running --wait"); got != "running" {
		r.Errorf("the system is %s", got)
	}
	if got := r.on(m, "journalctl --boot --output=cat | grep -E 'ordering cycle|deleted to break' || true"); got != "" {
		r.Errorf("ordering cycle: %s", got)
	}
}
