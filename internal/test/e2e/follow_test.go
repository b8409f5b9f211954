package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/host"
)

// followed is a lab whose members follow, and nobody can log in to them.
func followed(t *testing.T, inS3 bool) (*rig, []*host.Host) {
	t.Helper()
	r := published(t, func(o *lab.Options) {
		o.Follow, o.S3 = true, inS3
		o.AgentSettings["follow-interval"] = "1s"
		o.PublisherSettings["reach"] = "follow"
		o.PublisherSettings["ssh-key"] = "/nowhere"
	})
	return r, r.scale(2)
}

// seen is what `status` of a member that follows says.
type seen struct {
	Generation int64
	Follow     struct {
		Looked     time.Time
		Generation int64
		Trouble    string
	}
}

func (r *rig) seen(h *host.Host) (s seen) {
	r.Helper()
	must(r, json.Unmarshal([]byte(r.on(h, "ebs-release-agent status --output json")), &s))
	return s
}

// eventually waits until it is so.
func (r *rig) eventually(what string, so func() bool) {
	r.Helper()
	for end := time.Now().Add(60 * time.Second); !so(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			r.Fatalf("it did not come to this: %s", what)
		}
	}
}

// TestMembersFollow: nobody logs in to a member, and each release is on all of them.
func TestMembersFollow(t *testing.T) {
	for name, inS3 := range map[string]bool{"over HTTP": false, "in S3": true} {
		t.Run(name, func(t *testing.T) { membersFollow(t, inS3) })
	}
}

func membersFollow(t *testing.T, inS3 bool) {
	r, members := followed(t, inS3)
	if out := r.publisher("doctor"); strings.Contains(out.Stdout, "ssh") || out.Code != 0 {
		t.Errorf("doctor, exit %d:\n%s", out.Code, out.Stdout)
	}
	for _, h := range members {
		r.on(h, `mkdir -p /etc/ebs-release/activate.d && printf '#!/bin/sh\necho "$(id -un) $EBS_RELEASE_GENERATION" >> /tmp/ran
test ! -e /tmp/fail || { echo no such socket; exit 7; }\n' > /etc/ebs-release/activate.d/50-reload && chmod 755 /etc/ebs-release/activate.d/50-reload`)
	}
	r.sh("echo two > /srv/source/version")
	if out := r.ok("publish", "/srv/source"); !strings.Contains(out, "generation 2 is current: 2/2 members on it") {
		t.Errorf("publish: %s", out)
	}
	for _, h := range members {
		if got := r.version(h); got != "two" {
			t.Errorf("%s has %q", h.ID, got)
		}
		if got := r.on(h, "cat /tmp/ran"); got != lab.SSHUser+" 2" {
			t.Errorf("%s: the programs ran: %q", h.ID, got)
		}
		if s := r.seen(h); s.Generation != 2 || s.Follow.Generation != 2 || s.Follow.Trouble != "" || time.Since(s.Follow.Looked) > time.Minute {
			t.Errorf("%s: %+v", h.ID, s)
		}
		r.on(h, "ebs-release-agent verify")
	}
	r.sh("echo three > /srv/source/version")
	r.ok("publish", "/srv/source")
	r.ok("rollback")
	for _, h := range members {
		if got := r.version(h); got != "two" {
			t.Errorf("after a rollback %s has %q", h.ID, got)
		}
	}
}

// TestFollowHeals: the store is away, a program fails, the follower is killed: what is served goes
// on being served, and the member gets to the release when that is over.
func TestFollowHeals(t *testing.T) {
	r, members := followed(t, false)
	first := members[0]
	store := lab.PointerStore

	// The store is away, which says 404 for everything.
	r.sh("mv " + store + " " + store + ".away")
	r.eventually("the trouble is seen", func() bool { return r.seen(first).Follow.Trouble != "" })
	if got := r.version(first); got != "one" {
		t.Errorf("it serves %q", got)
	}
	r.sh("mv " + store + ".away " + store)
	r.eventually("all is well again", func() bool { return r.seen(first).Follow.Trouble == "" })

	// A program fails on one member: the publish names it, and a converge waits until it is well.
	r.on(first, `mkdir -p /etc/ebs-release/activate.d && printf '#!/bin/sh\necho no such socket; test ! -e /run/fail\n' > /etc/ebs-release/activate.d/50-reload
chmod 755 /etc/ebs-release/activate.d/50-reload; touch /run/fail`)
	r.sh("echo two > /srv/source/version")
	refused(t, r.publisher("publish", "/srv/source"), 5, "a hook failed on 1 of them: "+first.ID)
	if got := r.version(first); got != "two" {
		t.Errorf("it serves %q", got)
	}
	r.eventually("status names the program", func() bool {
		return strings.Contains(r.seen(first).Follow.Trouble, "50-reload ended with exit code 1: no such socket")
	})
	r.on(first, "rm /run/fail")
	r.ok("converge")

	// Who does not follow is named; a new start goes on.
	r.on(first, "kill -KILL $(pgrep -f '[e]bs-release-agent follow')")
	r.sh("echo three > /srv/source/version")
	refused(t, r.publisher("publish", "/srv/source"), 5, first.ID+": on generation 2; it has to follow by itself", "ebs-release-follow.service")
	r.on(first, "setsid ebs-release-agent follow > /run/follow.log 2>&1 < /dev/null & true")
	r.ok("converge")
	if got := r.version(first); got != "three" {
		t.Errorf("it serves %q", got)
	}

	// Told to stop, it stops at once and without a word of trouble.
	r.on(first, "kill $(pgrep -f '[e]bs-release-agent follow')")
	r.eventually("it is gone", func() bool { return r.on(first, "pgrep -f '[e]bs-release-agent follow' || true") == "" })
	if log := r.on(first, "cat /run/follow.log"); strings.Contains(log, "warning") || strings.Contains(log, "cancel") {
		t.Errorf("it said:\n%s", log)
	}
}
