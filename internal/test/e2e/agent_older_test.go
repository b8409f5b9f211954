package e2e

import (
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/host"
)

// TestAgentRefusesAnOlderPointer: the release server comes back with an older release.json (a
// restore, a cache). A member that serves, one that reboots and one that was stopped keep the newer
// volume, and say so; with --older the operator has what the pointer names.
func TestAgentRefusesAnOlderPointer(t *testing.T) {
	r := published(t, nil)
	old := r.pointerNow()
	r.sh("cp -p " + lab.PointerStore + "/release.json /run/older.json; cp -p " + lab.PointerStore + "/snap.txt /run/older.txt")
	r.sh("echo two > /srv/source/version")
	r.ok("publish", "/srv/source", "--groups", r.emptyGroup())
	now := r.pointerNow()

	hosts := map[string]*host.Host{}
	names := []string{"serving", "reboot", "stop and start"}
	for _, name := range names {
		hosts[name] = r.machine()
		must(t, failed(agent(within(t, 30*time.Second), hosts[name])))
		must(t, r.served(hosts[name], now, "two", 1))
	}
	r.sh("cp -p /run/older.json " + lab.PointerStore + "/release.json; cp -p /run/older.txt " + lab.PointerStore + "/snap.txt")
	t.Run("a first boot", func(t *testing.T) { // the volume knows nothing of generation 2, and its snapshot tells
		r := r.in(t)
		h, ctx := r.machine(), within(t, 60*time.Second)
		for range 2 {
			refused(t, agent(ctx, h).Output, 1, "look for newer: snap-", "has generation 2, the pointer says 1", "the pointer that was read is an old one", "--older")
			if found := r.lab.VolumesFor(h.ID); len(found) > 0 {
				t.Errorf("there is %s", show(found))
			}
		}
		must(t, failed(agent(ctx, h, "--older")))
		must(t, r.served(h, old, "one", 1))
		must(t, r.lab.Reboot(ctx, h.ID))
		must(t, failed(agent(ctx, h))) // it served: the operator's word stands
		must(t, r.served(h, old, "one", 1))
	})
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			r := r.in(t)
			h, ctx := hosts[name], within(t, 60*time.Second)
			volume := r.lab.VolumesFor(h.ID)[0].ID
			switch name {
			case "reboot":
				must(t, r.lab.Reboot(ctx, h.ID))
			case "stop and start":
				must(t, r.lab.StopStart(ctx, h.ID))
			}
			for range 2 { // systemd tries again
				refused(t, agent(ctx, h).Output, 1, "the pointer that was read is an old one", "generation 2", "the pointer says 1", "Nothing was changed", "--older")
			}
			if found := r.lab.VolumesFor(h.ID); len(found) != 1 || found[0].ID != volume || found[0].State != "in-use" {
				t.Errorf("the volumes are %s, want %s", show(found), volume)
			}
			if got, err := visible(h); name == "serving" && (got != "two" || err != nil) || name != "serving" && got != "" {
				t.Errorf("/release shows %q (%v)", got, err)
			}
			readies := 2
			if name == "reboot" || name == "stop and start" {
				readies = 1
			}
			must(t, failed(agent(ctx, h, "--older")))
			must(t, r.served(h, old, "one", readies))
			if out := agent(ctx, h); out.Code != 0 { // the unit's own try, afterwards
				t.Errorf("exit %d: %s", out.Code, out.last())
			}
		})
	}
}

// TestAgentLockIsRootsAlone: no other user can hold up a boot or a push, and the ssh user still
// sees that a boot goes on.
func TestAgentLockIsRootsAlone(t *testing.T) {
	r := published(t, nil)
	h := r.machine()
	must(t, failed(agent(within(t, 30*time.Second), h)))
	as := "setpriv --reuid=65534 --regid=65534 --clear-groups "
	if out, _ := h.Run(within(t, 10*time.Second), "sh", "-c", as+"flock --nonblock /run/ebs-release/lock true"); out.Code == 0 {
		t.Error("any user takes the agent's lock")
	}
	if got := r.on(h, as+"sh -c 'ebs-release-agent status >/dev/null; echo $?'"); got != "0" {
		t.Errorf("status of another user ends with %s", got)
	}
	got := r.on(h, "flock /run/ebs-release/lock "+as+"sh -c 'ebs-release-agent status 2>&1; echo $?'")
	if !strings.Contains(got, "booting") || !strings.HasSuffix(got, "3") {
		t.Errorf("while an `up` goes on, status of another user says %q", got)
	}
}
