package e2evm

import (
	"fmt"
	"strings"
	"testing"

	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/vm"
)

// TestVMRolloutIsCarriedOn: a publish is killed while the first step of its rollout waits for the
// gate. The timer finds that out when the lease is over, and its unit brings the rollout to its
// end.
func TestVMRolloutIsCarriedOn(t *testing.T) {
	r := newRig(t, setup{})
	server := r.launch(cloud.RunSpec{ImageID: serverVM, Role: "ebs-release-publisher", Tags: map[string]string{"Name": "release-server"}})
	const fleetVM = "ami-0000000000000f005"
	r.lab.Register(fleetVM, vm.Spec{Image: built.member, Environment: []string{fmt.Sprintf("EBS_RELEASE_POINTER=http://%s/release.json", server.Address)}})
	spec := member
	spec.ImageID = fleetVM
	must(t, r.lab.Account.CreateGroup(cloud.GroupSpec{Name: "fleet", Max: 1, Launch: spec}))
	r.on(server, "ebs-release init --size 1; systemctl enable --now ebs-release-serve.socket ebs-release-rollout.timer")
	r.on(server, source("three")+"ebs-release publish /srv/source")
	must(t, r.lab.Account.SetDesired("fleet", 1))
	must(t, r.lab.InService(within(t, bootTime), "fleet", 1))
	m, err := r.lab.Machine(within(t, stepTime), r.lab.Members("fleet")[0].InstanceID)
	must(t, err)
	r.ready(m, "three")

	r.on(server, source("four")+`systemd-run --quiet --unit publish ebs-release publish /srv/source --no-snapshot --steps 1 \
--gate 'echo asked >> /run/asked; test -e /run/go || exec sleep 300'
until test -e /run/asked; do sleep 0.5; done
systemctl kill --signal=KILL publish
touch /run/go`)
	if got := r.on(server, "ebs-release rollout status; pgrep -x sleep || echo no gate is left"); !strings.Contains(got, "is at step 1 of 2 (1)") || !strings.Contains(got, "no gate is left") {
		t.Fatalf("after the kill: %s", got)
	}
	for range 2 { // the lease is 5 minutes, and a look comes each minute
		r.on(server, "timeout 300 sh -c 'until ebs-release rollout status | grep -q \"no rollout is open\"; do sleep 5; done' || true")
	}
	said := r.on(server, "ebs-release status; ebs-release history; cat /run/asked; systemctl show --property Result ebs-release-rollout.service")
	for _, want := range []string{"generation 2 is current: 1/1 members on it", "rollout carry-on", "asked\nasked", "Result=success"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in\n%s", want, said)
		}
	}
	if got := r.on(m, "cat /release/current/version"); got != "four" {
		t.Errorf("the member has %s", got)
	}
}
