package e2evm

import (
	"fmt"
	"strings"
	"testing"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/vm"
)

// TestVMBake makes an image on a running instance, as Packer does with packaging/packer, with a
// reboot in between, and boots from it.
func TestVMBake(t *testing.T) {
	r := newRig(t, setup{})
	builder := r.launch(cloud.RunSpec{ImageID: bareVM})
	unit, err := readmeUnit()
	must(t, err)
	r.on(builder, "install -d -m 0755 /etc/ebs-release; touch /etc/ebs-release/disabled")
	must(t, builder.CopyIn(within(t, bootTime), built.deb, "/tmp/agent.deb"))
	must(t, builder.WriteFile(within(t, bootTime), "/etc/ebs-release/agent.toml", []byte(fmt.Sprintf("pointer = %q\n", lab.PointerURL)), 0o644))
	must(t, builder.WriteFile(within(t, bootTime), "/etc/systemd/system/application.service", []byte(unit), 0o644))
	must(t, builder.WriteFile(within(t, bootTime), "/etc/systemd/system/application.service.d/lab.conf", []byte(toMarks), 0o644))
	r.on(builder, addUser+"; dpkg --force-confold -i /tmp/agent.deb; rm /tmp/agent.deb; systemctl enable application.service")
	idle := func(when string) {
		t.Helper()
		got := r.on(builder, "systemctl is-enabled ebs-release-agent.service; systemctl is-active ebs-release-agent.service ebs-release.target application.service || true; findmnt /release || true")
		if got != "enabled\ninactive\ninactive\ninactive" {
			t.Errorf("%s the builder is\n%s", when, got)
		}
		if calls := r.lab.Account.CallsBy(builder.ID); len(calls) > 0 {
			t.Errorf("%s the builder called EC2: %+v", when, calls)
		}
	}
	idle("after the package was installed")
	r.reboot(builder)
	must(t, builder.Booted(within(t, bootTime)))
	idle("after a reboot")
	if got := r.properties(builder, "ebs-release-agent.service", "ConditionResult", "Result"); got["ConditionResult"] != "no" || got["Result"] != "success" {
		t.Errorf("the agent's unit on the builder: %v", got)
	}
	// The end of the Packer file: the switch off, and what cloud-init clean removes.
	r.on(builder, "rm /etc/ebs-release/disabled /etc/ssh/ssh_host_*")
	r.stop(builder)
	image, err := builder.Bake()
	must(t, err)

	const baked = "ami-0000000000000f003"
	r.lab.Register(baked, vm.Spec{Image: image})
	spec := member
	spec.ImageID = baked
	r.ready(r.launch(spec), "one")
}

// TestVMUpgradeWhileMounted installs a newer agent under a running application; the next publish
// and the next boot are the newer agent's.
func TestVMUpgradeWhileMounted(t *testing.T) {
	r := newRig(t, setup{})
	must(t, r.lab.Account.SetDesired("web", 1))
	must(t, r.lab.InService(within(t, bootTime), "web", 1))
	m, err := r.lab.Machine(within(t, stepTime), r.lab.Members("web")[0].InstanceID)
	must(t, err)
	r.ready(m, "one")
	state := func() string {
		return r.on(m, `systemctl show --property=Id,InvocationID,ActiveState,SubState,NRestarts,MainPID,NeedDaemonReload ebs-release-agent.service ebs-release.target application.service
			grep ' /release ' /proc/1/mountinfo; cat /release/current/version; cat /etc/ebs-release/agent.toml`)
	}
	before := state()
	must(t, m.CopyIn(within(t, bootTime), built.next, "/tmp/next.deb"))
	r.on(m, "dpkg -i /tmp/next.deb")
	if got := r.on(m, "ebs-release-agent version; dpkg-query -W -f '${Version}' ebs-release-agent"); strings.Count(got, nextVersion) != 2 {
		t.Fatalf("after the upgrade the agent is %s", got)
	}
	if after := state(); after != before {
		t.Errorf("the upgrade changed what runs: before\n%s\nafter\n%s", before, after)
	}
	r.publish("two")
	if got := r.on(m, "cat /release/current/version"); got != "two" {
		t.Errorf("after a publish the member has release %s", got)
	}
	r.reboot(m)
	r.ready(m, "two")
}
