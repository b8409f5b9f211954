package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/host"
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
	guarded(r)
	doctorOfBucket(r)
}

// TestTwoReleaseServersOnOneStore: they publish in turns, each from where the other one left off,
// and at once, where one of them changes nothing.
func TestTwoReleaseServersOnOneStore(t *testing.T) {
	r := newRig(t, func(o *lab.Options) { o.S3 = true })
	r.sh("mkdir /srv/source; seq 1 20000 > /srv/source/data; echo one > /srv/source/version")
	r.ok("init", "--size", "1")
	r.ok("publish", "/srv/source")
	member := r.scale(1)[0]
	second := r.in(t)
	second.newServer(r.sh("cat " + signingKey))
	second.ok("init", "--join")
	second.sh("mkdir /srv/source; seq 1 20000 > /srv/source/data")
	servers := []*rig{r, second}

	generation := int64(1)
	for i, version := range []string{"two", "three", "four"} {
		s := servers[(i+1)%2]
		s.sh("echo " + version + " > /srv/source/version")
		out := s.publisher("publish", "/srv/source")
		generation++
		if caughtUp := strings.Contains(out.Stderr, "the release volume caught up from release "); out.Code != 0 || caughtUp != (i > 0) {
			t.Fatalf("publish %s: exit %d, %s", version, out.Code, out.Stderr)
		}
		if got := r.version(member); got != version || s.status().Generation != generation {
			t.Errorf("the member has %q at generation %d, want %q at %d", got, s.status().Generation, version, generation)
		}
	}
	r.ok("rollback") // of what the other one published
	if got := r.version(member); got != "three" {
		t.Errorf("after a rollback the member has %q", got)
	}
	generation++

	for _, s := range servers { // neither commits before both have read the pointer
		s.sh("mkdir -p /etc/ebs-release/publish.d/before; cd /etc/ebs-release/publish.d/before; " +
			"printf '#!/bin/sh\ntouch /run/here; until test -e /run/go; do sleep 0.05; done\n' > 50-wait; chmod 755 50-wait")
	}
	ended := make([]chan host.Output, len(servers))
	for i, s := range servers {
		s.sh("echo at-once-" + string(rune('a'+i)) + " > /srv/source/version")
		ended[i] = make(chan host.Output, 1)
		go func() { ended[i] <- s.publisher("publish", "/srv/source") }()
	}
	for _, s := range servers {
		s.sh("until test -e /run/here; do sleep 0.05; done")
	}
	for _, s := range servers {
		s.sh("touch /run/go")
	}
	outs := []host.Output{<-ended[0], <-ended[1]}
	first := slices.IndexFunc(outs, func(o host.Output) bool { return o.Code == 0 })
	if first < 0 {
		t.Fatalf("both failed: %s\n%s", outs[0].Stderr, outs[1].Stderr)
	}
	refused(t, outs[1-first], 4, "nothing was activated", "this publish began at 5")
	want := "at-once-" + string(rune('a'+first))
	if got := r.version(member); got != want || r.status().Generation != generation+1 {
		t.Errorf("the member has %q at generation %d, want %q", got, r.status().Generation, want)
	}
	late := servers[1-first]
	late.ok("converge") // it has what the other one published by now
	if got := late.sh("cat /release/current/version"); got != want {
		t.Errorf("the other release volume is at %q", got)
	}
	late.ok("publish", "/srv/source")
	if got, want := r.version(member), "at-once-"+string(rune('a'+1-first)); got != want {
		t.Errorf("then the member has %q, want %q", got, want)
	}
	for _, s := range servers {
		if out := s.publisher("doctor"); out.Code != 0 {
			t.Errorf("doctor: %s", out.Stdout)
		}
	}
}
