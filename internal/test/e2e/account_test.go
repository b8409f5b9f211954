package e2e

import (
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
)

// TestAnAccountThatDemandsTags: row 47. A policy of the organization refuses volumes and snapshots
// without its tag. Both programs say so in EC2's words, and with the setting all that they make has
// the tag from the first call on.
func TestAnAccountThatDemandsTags(t *testing.T) {
	r := newRig(t, func(o *lab.Options) {
		o.RequiredTags = []string{"CostCenter"}
		o.AgentSettings["tags"] = "CostCenter=42, a key=a/b"
		o.PublisherSettings["tags"] = "CostCenter=42"
	})
	words := []string{"ec2:CreateVolume", "explicit deny in a service control policy", "the setting `tags`", "decode-authorization-message"}
	refused(t, r.publisher("init", "--size", "1", "--tags", ""), 3, words...)
	r.ok("init", "--size", "1")
	r.sh("mkdir -p /srv/source && echo one > /srv/source/version")
	refused(t, r.publisher("publish", "/srv/source", "--tags", ""), 3, "ec2:CreateSnapshot", "explicit deny in a service control policy")
	r.ok("publish", "/srv/source")

	ctx, h := within(t, time.Minute), r.machine()
	refused(t, agent(ctx, h, "--tags", "", "--deadline", "5s").Output, 1, append(words, "not allowed: UnauthorizedOperation")...)
	must(t, failed(agent(ctx, h)))
	for _, v := range r.lab.Account.Volumes() {
		if !v.Root && v.Tags["CostCenter"] != "42" {
			t.Errorf("%s has the tags %v", v.ID, v.Tags)
		}
	}
	for _, v := range r.lab.VolumesFor(h.ID) {
		if v.Tags["a key"] != "a/b" {
			t.Errorf("%s has the tags %v", v.ID, v.Tags)
		}
	}
	for _, s := range r.lab.Account.Snapshots() {
		if s.Tags["CostCenter"] != "42" {
			t.Errorf("%s has the tags %v", s.ID, s.Tags)
		}
	}
}

// TestAClockThatIsOff: row 48. An hour is no reason to fail, ahead or behind, in either program;
// doctor names the clock.
func TestAClockThatIsOff(t *testing.T) {
	r := published(t, nil)
	for _, off := range []time.Duration{time.Hour, -time.Hour} {
		h := r.machine()
		r.lab.Account.SetClock(h.ID, off)
		must(t, failed(agent(within(t, time.Minute), h)))
		r.diagnosed(h, "warn", "clock", []string{"the clock of this machine is 1h0m", "timedatectl"})

		r.lab.Account.SetClock(r.server.ID, off)
		r.sh("date +%N > /srv/source/version")
		r.ok("publish", "/srv/source")
		if out := r.publisher("doctor"); !strings.Contains(out.Stdout, "the clock of this machine is 1h0m") {
			t.Errorf("doctor says\n%s", out.Stdout)
		}
	}
}
