package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
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
	pointer, snapshot := r.inStore("release.json"), r.inStore("snap.txt")
	if !strings.Contains(pointer, fmt.Sprintf("%q", snapshot)) || !strings.Contains(pointer, `"revision": 3`) {
		t.Errorf("snap.txt says %s, release.json %s", snapshot, pointer)
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
