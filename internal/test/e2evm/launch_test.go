package e2evm

import (
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/policy"
)

// TestVMLaunchHook: under a real systemd the unit completes the launch when the application's unit
// and the programs say so, and has nothing to do in the next boot.
func TestVMLaunchHook(t *testing.T) {
	r := newRig(t, setup{})
	spec := member
	spec.Role = policy.LaunchedRole
	must(t, r.lab.Account.CreateGroup(cloud.GroupSpec{Name: "app", Desired: 1, Launch: spec,
		Hooks: []cloud.Hook{{Name: "ebs-release", Launch: true, Timeout: 10 * time.Minute, Abandon: true}}}))
	for ctx := within(t, bootTime); len(r.lab.Members("app")) == 0; {
		select {
		case <-ctx.Done():
			t.Fatal("the group launches nobody")
		case <-time.After(100 * time.Millisecond):
		}
	}
	id := r.lab.Members("app")[0].InstanceID
	m, err := r.lab.Machine(within(t, stepTime), id)
	must(t, err)
	r.ready(m, "one")
	const unit = "ebs-release-launch.service"
	if got := r.properties(m, unit, "Result", "ActiveState"); got["Result"] != "success" || got["ActiveState"] != "active" {
		t.Errorf("without a launch hook, in a group: %v", got)
	}
	r.on(m, `install -d /etc/ebs-release/ready.d; printf '#!/bin/sh\ntest -e /run/serves || { echo no socket yet; exit 1; }\n' > /etc/ebs-release/ready.d/10-http
chmod 755 /etc/ebs-release/ready.d/10-http
printf 'launch-hook = "ebs-release"\nlaunch-after = "application.service"\n' >> /etc/ebs-release/agent.toml
systemctl restart `+unit)
	r.inJournal(m, unit, "no socket yet")
	if state := r.lab.Members("app")[0].State; state != "Pending:Wait" {
		t.Errorf("it is %s before it serves", state)
	}
	r.on(m, "touch /run/serves")
	r.inJournal(m, unit, "the launch is completed")
	must(t, r.lab.InService(within(t, stepTime), "app", 1))
	r.reboot(m)
	r.ready(m, "one")
	r.inJournal(m, unit, "no launch to complete")
	if now := r.lab.Members("app"); len(now) != 1 || now[0].InstanceID != id {
		t.Errorf("the group has %v", now)
	}
	if got := r.on(m, "journalctl --boot --output=cat --priority=warning --unit="+unit); strings.TrimSpace(got) != "" {
		t.Errorf("it warned:\n%s", got)
	}
}
