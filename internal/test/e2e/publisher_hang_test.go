package e2e

import (
	"strings"
	"testing"
	"time"
)

// The sshd of three of six members is stopped, and there are two slots: the other three have the
// release, flipped together right after the commit, and only those that hang are named.
func TestMembersThatHangKeepNobodyWaiting(t *testing.T) {
	r := published(t, nil)
	hosts := r.scale(6)
	toSSHD := func(signal string) {
		for _, h := range hosts[:3] {
			r.on(h, "until [ -s /run/sshd.pid ]; do sleep 0.05; done; kill -"+signal+" $(cat /run/sshd.pid)")
		}
	}
	toSSHD("STOP")
	defer toSSHD("CONT")
	r.sh("echo two > /srv/source/version")
	out := r.publisher("publish", "/srv/source", "--output", "ndjson", "--parallel", "2", "--converge-deadline", "5s", "--settle", "1s")
	events := r.events(out.Stdout)
	last := events[len(events)-1]
	if out.Code != 5 || last.Outcome == nil || last.Outcome.OnIt != 3 || last.Outcome.Total != 6 {
		t.Fatalf("exit %d: %s%+v", out.Code, out.Stderr, last)
	}
	var committed time.Time
	flipped := map[string]time.Duration{}
	for _, e := range events {
		switch {
		case e.Kind == "phase" && e.Phase == "P4":
			committed = e.Time
		case e.Kind == "active":
			flipped[e.Member] = e.Time.Sub(committed)
		}
	}
	for i, h := range hosts {
		after, did := flipped[h.ID]
		// Far above what a flip takes, on a machine that others work on too, and far below what a
		// member that hangs may take (5 minutes).
		if did != (i >= 3) || after > 5*time.Second {
			t.Errorf("%s flipped: %v, %v after the commit", h.ID, did, after)
		}
		if named := strings.Contains(lastLine(out.Stderr), h.ID); named != (i < 3) {
			t.Errorf("%s is named: %v in %s", h.ID, named, lastLine(out.Stderr))
		}
	}
	toSSHD("CONT")
	r.ok("converge")
	if s := r.status(); len(s.Members) != 6 || r.version(hosts[0]) != "two" {
		t.Errorf("%+v", s)
	}
}
