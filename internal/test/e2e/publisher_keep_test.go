package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
)

// What a rollback needs is there after publishes that failed, whose trees are younger, and gc says
// why it keeps what it keeps.
func TestWhatARollbackNeedsOutlivesFailedPublishes(t *testing.T) {
	r := published(t, nil)
	h := r.scale(1)[0]
	r.publishAs("two", "--keep", "2")
	disarm := r.lab.Account.Fault(cloud.Fault{Action: "CreateSnapshot", Effect: cloud.Effect{Fail: cloud.Unauthorized}})
	for _, v := range []string{"bad1", "bad2", "bad3"} {
		r.sh("echo " + v + " > /srv/source/version")
		refused(t, r.publisher("publish", "/srv/source", "--keep", "2"), 3, "nothing was changed")
	}
	disarm()
	for _, verb := range [][]string{{"converge", "--keep", "2"}, {"gc", "--keep", "2", "--grace", "0s"}} {
		r.ok(verb...)
	}
	if n := len(strings.Fields(r.sh("ls /release/releases"))); n != 2 {
		t.Errorf("%d releases are left", n)
	}
	out := r.ok("gc", "--keep", "2", "--grace", "0s", "--dry-run")
	for _, want := range []string{"keeps tree", "it is current", "committed, 1 before the pointer's", "keeps snapshot", "the pointer names it", "a rollback boots from it"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	var report struct {
		Items, Kept []struct{ Kind, ID, Why string }
	}
	must(t, json.Unmarshal([]byte(r.ok("gc", "--keep", "2", "--grace", "0s", "--dry-run", "--output", "json")), &report))
	if len(report.Items) != 0 || len(report.Kept) != 5 { // two trees, their snapshots, and the pack between them
		t.Errorf("%+v", report)
	}
	var o publication
	must(t, json.Unmarshal([]byte(r.ok("rollback", "--output", "json")), &o))
	if o.Fetched.Packs != 0 || o.Result != "converged" || r.version(h) != "one" {
		t.Errorf("%+v, member %q", o, r.version(h))
	}
}

// An edit in place that left size and mtime as they were (cp -p) is neither packed nor snapshotted,
// and a rollback to it is refused.
func TestWhatWasEditedInPlaceIsNotShipped(t *testing.T) {
	r := published(t, nil)
	h := r.scale(1)[0]
	r.sh("echo right > /srv/source/data")
	r.publishAs("two")
	edit := func(tree string) string {
		return "cd " + tree + " && touch -r data /tmp/time && printf W > /tmp/w && dd if=/tmp/w of=data bs=1 conv=notrunc status=none && touch -r /tmp/time data"
	}
	r.sh(edit("/release/current/"))
	r.on(h, edit("/release/current/"))
	var o publication
	must(t, json.Unmarshal([]byte(func() string {
		r.sh("echo three > /srv/source/version")
		return r.ok("publish", "/srv/source", "--output", "json")
	}()), &o))
	if got := r.on(h, "cat /release/current/data") + r.sh("cat /release/current/data"); got != "rightright" {
		t.Errorf("the members and the server have %q", got)
	}
	if o.Fetched.Packs != 1 {
		t.Errorf("%d packs were fetched, want one, from nothing", o.Fetched.Packs)
	}
	r.ok("verify", "--all")
	r.unchanged(func() host.Output { return r.publisher("rollback") }, 3, "edited in place: data: its content has another sha256", "publish its source again")
	young := r.scale(2)[1]
	if got := r.on(young, "cat /release/current/data"); got != "right" {
		t.Errorf("a member that boots has %q", got)
	}
}

// A container on a member has a release bound: that one is not removed, and shows no other one,
// however many are published.
func TestAReleaseThatAContainerHasMountedStays(t *testing.T) {
	r := published(t, nil)
	h := r.scale(1)[0]
	id := strings.TrimPrefix(r.on(h, "readlink /release/current"), "releases/")
	r.on(h, "mkdir -p /run/bound; setsid unshare -m sh -c 'mount --bind /release/current/ /run/bound && echo $$ > /run/container.pid && cd / && exec sleep 300' </dev/null >/dev/null 2>&1 &"+
		"for i in $(seq 100); do test -s /run/container.pid && break; sleep 0.05; done")
	for i := range 3 {
		r.publishAs(fmt.Sprint("next", i), "--keep", "1")
	}
	if got := r.on(h, "cat /proc/$(cat /run/container.pid)/root/run/bound/version; ls /release/releases"); !strings.HasPrefix(got, "one\n") || !strings.Contains(got, id) {
		t.Errorf("the container sees, and the member holds: %s", got)
	}
	r.on(h, "kill $(cat /run/container.pid)")
	r.publishAs("last", "--keep", "1")
	if got := r.on(h, "ls /release/releases"); strings.Contains(got, id) || len(strings.Fields(got)) != 1 {
		t.Errorf("the member holds %s", got)
	}
}
