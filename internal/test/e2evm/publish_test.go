package e2evm

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/vm"
)

// TestVMLaunchDuringAPublish holds a boot at its first change of the world, which is for release
// one, until release two is committed.
func TestVMLaunchDuringAPublish(t *testing.T) {
	r := newRig(t, setup{})
	reached, goOn := make(chan struct{}), make(chan struct{})
	r.lab.Account.Fault(cloud.Fault{Action: "CreateVolume", Times: 1, Effect: cloud.Effect{Do: func(cloud.Call) { close(reached); <-goOn }}})
	must(t, r.lab.Account.SetDesired("web", 1))
	select {
	case <-reached:
	case <-time.After(bootTime):
		t.Fatal("no instance has made a volume")
	}
	r.sh(source("two"))
	published := make(chan string, 1)
	go func() {
		out, err := r.server.Run(within(t, 5*time.Minute), "ebs-release", "publish", "/srv/source", "--wait-snapshot")
		published <- fmt.Sprintf("%v\n%s", err, out.Stdout)
	}()
	first := r.current()
	r.sh(fmt.Sprintf("while grep -q %s /srv/release/snap.txt; do sleep 0.05; done", first))
	close(goOn)
	m, err := r.lab.Machine(within(t, stepTime), r.lab.Members("web")[0].InstanceID)
	must(t, err)
	r.ready(m, "two")
	r.never(m, "one")
	if said := <-published; !strings.HasPrefix(said, "<nil>") || !strings.Contains(said, "1/1 members on it") {
		t.Errorf("the publish: %s", said)
	}
}

// TestVMPublishesToOthers has nothing but virtual machines: a release server, set up as the
// README's quick start says, and two members.
func TestVMPublishesToOthers(t *testing.T) {
	r := newRig(t, setup{})
	server := r.launch(cloud.RunSpec{ImageID: serverVM, Role: "ebs-release-publisher", Tags: map[string]string{"Name": "release-server"}})
	const fleetVM = "ami-0000000000000f004"
	r.lab.Register(fleetVM, vm.Spec{Image: built.member, Environment: []string{fmt.Sprintf("EBS_RELEASE_POINTER=http://%s/release.json", server.Address)}})
	spec := member
	spec.ImageID = fleetVM
	must(t, r.lab.Account.CreateGroup(cloud.GroupSpec{Name: "fleet", Max: 2, Launch: spec}))
	r.on(server, "ebs-release init --size 1; systemctl enable --now ebs-release-serve.socket")
	r.on(server, source("three")+"ebs-release publish /srv/source")

	must(t, r.lab.Account.SetDesired("fleet", 2))
	must(t, r.lab.InService(within(t, bootTime), "fleet", 2))
	var members []*vm.Machine
	for _, m := range r.lab.Members("fleet") {
		m, err := r.lab.Machine(within(t, stepTime), m.InstanceID)
		must(t, err)
		members = append(members, m)
	}
	for _, m := range members {
		r.ready(m, "three")
	}

	said := r.on(server, source("four")+"ebs-release publish /srv/source 2>&1; touch /release/thawed; ebs-release status")
	if !strings.Contains(said, "writers waited") || strings.Count(said, "2/2 members on it") != 2 {
		t.Errorf("the publish and the status after it: %s", said)
	}
	for _, m := range members {
		if got := r.on(m, "cat /release/current/version"); got != "four" {
			t.Errorf("%s has release %s", m.ID, got)
		}
	}
	if got := r.on(members[0], fmt.Sprintf("curl --silent --show-error --fail http://%s/release.json", server.Address)); !strings.Contains(got, `\"generation\":2,`) {
		t.Errorf("the server's socket answers %s", got)
	}
	if got := r.on(server, "systemctl is-active ebs-release-serve.socket ebs-release-serve.service; systemctl --failed --plain --no-legend"); got != "active\nactive" {
		t.Errorf("units of the release server: %s", got)
	}
}
