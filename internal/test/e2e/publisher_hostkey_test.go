package e2e

import (
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
)

// address is where EC2 says that an instance is.
func (r *rig) address(instance string) string {
	r.Helper()
	for _, i := range r.lab.Account.Instances() {
		if i.ID == instance {
			return i.Address.String()
		}
	}
	r.Fatalf("there is no instance %s", instance)
	return ""
}

func TestAddressThatANewMemberGetsAgain(t *testing.T) {
	r := published(t, nil)
	old := r.scale(1)[0]
	r.publishAs("two") // the publisher has seen the key behind the address
	address := r.address(old.ID)
	must(t, r.lab.Account.SetDesired("web", 0))
	must(t, r.lab.InService(within(t, 30*time.Second), "web", 0))
	must(t, r.lab.Account.Wait(within(t, 30*time.Second), func() bool { _, err := r.lab.Host(old.ID); return err != nil }))
	young := r.scale(1)[0]
	if got := r.address(young.ID); got != address || young.ID == old.ID {
		t.Fatalf("test bug: the new member %s has the address %s, not %s", young.ID, got, address)
	}
	r.publishAs("three")
	if got := r.version(young); got != "three" {
		t.Errorf("the new member behind the old address says %q", got)
	}
}

// TestAnotherHostBehindAMembersAddress: a machine that is no member has the address of one. Nothing
// is said to it but a refusal.
func TestAnotherHostBehindAMembersAddress(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.PublisherSettings["converge-deadline"] = "3s" })
	hosts := r.scale(2)
	member, fine := hosts[0], hosts[1]
	stranger, err := r.member() // the same image, the same user key: only its host key tells
	must(t, err)
	address := r.address(member.ID)
	r.on(member, "ip addr del "+address+"/16 dev eth0")
	r.on(stranger, "ip addr add "+address+"/16 dev eth0")
	r.sh("ip neigh flush all; echo two > /srv/source/version")

	out := r.publisher("publish", "/srv/source")
	refused(t, out, 5, "1/2 members", member.ID, address, "another ssh host key than its agent reported", "another machine may have its address now")
	if got := r.version(fine); got != "two" {
		t.Errorf("the sound member says %q", got)
	}
	if got := r.version(stranger); got != "one" {
		t.Errorf("the stranger was pushed to: %q", got)
	}
	if got := r.on(stranger, "ls /release/releases | wc -l"); got != "1" {
		t.Errorf("the stranger has %s releases", got)
	}
	for _, verb := range [][]string{{"verify", member.ID}, {"converge"}} {
		out := r.publisher(verb...)
		if !strings.Contains(out.Stdout+out.Stderr, "another ssh host key") || out.Code == 0 {
			t.Errorf("%s: exit %d\n%s%s", verb[0], out.Code, out.Stdout, out.Stderr)
		}
	}

	r.on(stranger, "ip addr del "+address+"/16 dev eth0")
	r.on(member, "ip addr add "+address+"/16 dev eth0")
	r.sh("ip neigh flush all")
	r.ok("converge")
	if got := r.version(member); got != "two" {
		t.Errorf("the member says %q", got)
	}
}
