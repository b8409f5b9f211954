package e2e

import (
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/pointer"
)

// TestStoreInS3: a publisher and members whose store is a bucket of a real S3 server, under the
// shipped policies. No server of ours has to be there for a boot.
func TestStoreInS3(t *testing.T) {
	roles := shippedPolicies(t)
	r := newRig(t, func(o *lab.Options) { o.S3 = true; o.Policy = roles.Allow })
	r.sh("mkdir /srv/source; echo one > /srv/source/version")
	r.ok("init", "--size", "1")
	if out := r.publisher("doctor"); !strings.Contains(out.Stdout, lab.StoreInS3) {
		t.Errorf("doctor: %s %s", out.Stdout, out.Stderr)
	}
	r.ok("publish", "/srv/source", "-m", "first")
	member := r.scale(1)[0]
	version := func(want string) {
		t.Helper()
		if got := r.version(member); got != want {
			t.Errorf("the member has %q, want %q", got, want)
		}
	}
	version("one")
	r.sh("echo two > /srv/source/version")
	r.ok("publish", "/srv/source", "-m", "second")
	version("two")
	r.ok("rollback")
	version("one")
	if s := r.status(); s.Generation != 3 || len(s.Members) != 1 || s.Members[0].Generation != 3 || s.Members[0].Standing != "current" {
		t.Errorf("status: %+v", s)
	}
	if got := r.ok("history"); strings.Count(got, "converged 1/1") != 2 || !strings.Contains(got, "rollback") {
		t.Errorf("history: %s", got)
	}
	if got := r.ok("lock", "status"); !strings.Contains(got, "has no lock") {
		t.Errorf("lock status: %s", got)
	}
	p, err := pointer.Parse([]byte(r.inStore("release.json")))
	must(t, err)
	// The second publish wrote it twice: at its commit, and when its snapshot was completed.
	if snapshot := r.inStore("snap.txt"); p.Snapshots["us-east-1"] != snapshot || p.Revision != 4 || len(p.Edges) != 2 {
		t.Errorf("snap.txt says %s, release.json %+v", snapshot, p)
	}
	if out := r.publisher("serve"); out.Code != 2 || !strings.Contains(out.Stderr, "members read it from S3") {
		t.Errorf("serve: exit %d, %s", out.Code, out.Stderr)
	}
	must(t, r.lab.Reboot(within(t, 20*time.Second), member.ID))
	version("one")
	for _, c := range roles.Denied() {
		t.Errorf("refused: %+v", c)
	}
}
