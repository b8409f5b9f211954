package e2evm

import (
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/vm"
)

// TestVMWarmPool: under a real systemd an instance waits in the warm pool for longer than its unit
// may start, enters service on what was published meanwhile, closes its gate on the way back and
// before it sleeps, and reads the pointer again after both.
func TestVMWarmPool(t *testing.T) {
	r := newRig(t, setup{})
	must(t, r.lab.Account.CreateGroup(cloud.GroupSpec{Name: "app", Max: 1, Launch: member, Pool: &cloud.Pool{State: "Running", Prepared: 1, Reuse: true}}))
	for ctx := within(t, bootTime); len(r.lab.Warmed("app")) == 0; {
		select {
		case <-ctx.Done():
			t.Fatal("the pool launches nobody")
		case <-time.After(100 * time.Millisecond):
		}
	}
	m, err := r.lab.Machine(within(t, stepTime), r.lab.Warmed("app")[0].InstanceID)
	must(t, err)
	const agent, launch, sleep = "ebs-release-agent.service", "ebs-release-launch.service", "ebs-release-sleep.service"
	r.inJournal(m, agent, "in the warm pool: nothing is served")
	r.on(m, "install -d /run/systemd/system/"+agent+".d; printf '[Service]\\nTimeoutStartSec=20\\n' > /run/systemd/system/"+agent+".d/short.conf; "+
		"systemctl daemon-reload; systemctl --no-block restart "+agent)
	time.Sleep(45 * time.Second) // not for something: that nothing happens
	r.shut(m)
	if got := r.properties(m, agent, "ActiveState", "NRestarts", "StatusText"); got["ActiveState"] != "activating" || got["NRestarts"] != "0" || !strings.Contains(got["StatusText"], "warmed") {
		t.Errorf("in the pool its unit is %v", got)
	}
	r.never(m, "one")

	r.publish("two")
	must(t, r.lab.Account.SetDesired("app", 1))
	r.ready(m, "two")
	r.never(m, "one")

	must(t, r.lab.Account.SetDesired("app", 0))
	r.inJournal(m, launch, "the gate is closed")
	r.untilShut(m)
	r.publish("three")
	must(t, r.lab.Account.SetDesired("app", 1))
	r.ready(m, "three")

	// The targets of a sleep as they are, and in the place of the kernel's sleep a wait: this qemu
	// does not wake a machine that sleeps.
	r.on(m, `install -d /run/systemd/system/systemd-suspend.service.d
printf '[Service]\nExecStart=\nExecStart=/bin/sh -c "systemctl is-active application.service > /run/asleep; until test -e /run/wake; do sleep 1; done"\n' \
	> /run/systemd/system/systemd-suspend.service.d/lab.conf
systemctl daemon-reload; systemctl --no-block start suspend.target; until test -s /run/asleep; do sleep 1; done`)
	if got := r.on(m, "cat /run/asleep"); got != "inactive" {
		t.Errorf("when it falls asleep the application is %q", got)
	}
	r.shut(m)
	r.publish("four")
	r.on(m, "touch /run/wake")
	r.ready(m, "four")
	if got := r.properties(m, sleep, "ActiveState", "Result"); got["ActiveState"] != "inactive" || got["Result"] != "success" {
		t.Errorf("awake, its unit is %v", got)
	}
}

// shut fails unless nothing is served, and nothing is at the mount point.
func (r *rig) shut(m *vm.Machine) {
	r.Helper()
	got := r.on(m, "systemctl is-active ebs-release.target application.service || true")
	if strings.Contains("\n"+got, "\nactive") {
		r.Errorf("the gate is open: %q", got)
	}
}

// untilShut waits for that, and for a boot that rests in the pool.
func (r *rig) untilShut(m *vm.Machine) {
	r.Helper()
	for ctx := within(r, stepTime); ; {
		if got := r.on(m, "systemctl is-active application.service || true; ebs-release-agent status || true; findmnt /release || true"); strings.Contains(got, "warmed") && !strings.HasPrefix(got, "active") && !strings.Contains(got, "TARGET") {
			return
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			r.Fatalf("the gate of %s does not close", m.ID)
		}
	}
}
