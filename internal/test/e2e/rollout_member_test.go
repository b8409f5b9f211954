package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/host"
	"ebs-release/internal/pointer"
)

// given is what a member's `status` says of itself.
type given struct {
	Generation int64
	Rollout    struct {
		Generation int64
		HasIt      bool `json:"has_it"`
	}
}

func (r *rig) given(h *host.Host) (g given) {
	r.Helper()
	must(r, json.Unmarshal([]byte(r.on(h, "ebs-release-agent status --output json")), &g))
	return g
}

// sides waits until each member serves what the pointer gives it, and says so; it returns how many
// have the new release.
func (r *rig) sides(p pointer.Pointer, members []*host.Host, who map[string]pointer.Instance) (have int) {
	r.Helper()
	for _, h := range members {
		to := p.For(who[h.ID])
		open := p.Rollout != nil && p.Rollout.Includes(who[h.ID])
		version := "one"
		if open {
			version = "two"
			have++
		}
		// The fence moves before the release does: a member may say its generation a moment early.
		r.eventually(fmt.Sprintf("%s serves %q, is on generation %d, and says so", h.ID, version, to.Generation), func() bool {
			g := r.given(h)
			return g.Generation == to.Generation && g.Rollout.HasIt == open && (g.Rollout.Generation > 0) == (p.Rollout != nil) && r.version(h) == version
		})
	}
	return have
}

// write signs a pointer as it is, and makes it what is published.
func (r *rig) write(p *pointer.Pointer) {
	r.Helper()
	key, err := pointer.ParseSecretKey(r.sh("cut -d' ' -f1 " + signingKey))
	must(r, err)
	p.Revision++
	document, err := p.Sign(key)
	must(r, err)
	r.pointer(string(document))
}

// TestMembersTakeTheirSide: a rollout that is written by hand is raised and aborted, while members
// follow, reboot and launch.
func TestMembersTakeTheirSide(t *testing.T) {
	r := published(t, func(o *lab.Options) {
		o.Follow = true
		o.AgentSettings["follow-interval"] = "1s"
		o.PublisherSettings["reach"] = "follow"
		o.PublisherSettings["ssh-key"] = "/nowhere"
	})
	r.sh("echo two > /srv/source/version")
	r.ok("publish", "/srv/source", "--no-snapshot")
	of := r.pointerNow()
	r.ok("rollback", "--no-snapshot") // nobody was there to see it: it is what the rollout is of, with packs both ways
	p := r.pointerNow()
	two := pointer.Held{Generation: p.Generation + 1, Release: of.Release, Digest: of.Digest}
	members := r.scale(4)
	who, all := map[string]pointer.Instance{}, []pointer.Instance{}
	for _, i := range r.lab.Account.Instances() {
		who[i.ID] = pointer.Instance{ID: i.ID, Zone: i.Zone}
	}
	for _, h := range members {
		all = append(all, who[h.ID])
		r.on(h, `mkdir -p /etc/ebs-release/activate.d && printf '#!/bin/sh\necho $EBS_RELEASE_GENERATION >> /tmp/ran\n' > \
/etc/ebs-release/activate.d/50-note && chmod 755 /etc/ebs-release/activate.d/50-note`)
	}
	r.sides(p, members, who)

	raise := func(want int) {
		ro := p.Rollout.Raised(all, want)
		p.Rollout = &ro
		r.write(&p)
		if have := r.sides(p, members, who); have != want {
			t.Errorf("%d members have it, want %d", have, want)
		}
	}
	p.Rollout = &pointer.Rollout{Held: two, Steps: []pointer.Step{{Members: 1}, {Percent: 100}}, By: "by hand", Until: time.Now().Add(time.Hour)}
	raise(1)
	var first, other *host.Host
	for _, h := range members {
		if p.Rollout.Includes(who[h.ID]) {
			first = h
		} else {
			other = h
		}
	}
	if got := r.on(first, "ebs-release-agent status"); !strings.Contains(got, fmt.Sprintf("of generation %d: this member has it", two.Generation)) {
		t.Errorf("status says\n%s", got)
	}
	if got := r.on(other, "ebs-release-agent doctor || true"); !strings.Contains(got, fmt.Sprintf("without the rollout of generation %d", two.Generation)) {
		t.Errorf("doctor says\n%s", got)
	}

	// A reboot changes no side.
	for _, h := range []*host.Host{first, other} {
		must(t, r.lab.Reboot(within(t, 60*time.Second), h.ID))
	}
	r.sides(p, members, who)
	raise(3)

	// Back: the share by programs, the others without a word to anybody.
	for _, h := range members {
		r.on(h, "rm -f /tmp/ran")
	}
	had := p.Rollout
	p.Generation, p.Rollout = two.Generation+1, nil
	r.write(&p)
	r.sides(p, members, who)
	for _, h := range members {
		want := ""
		if had.Includes(who[h.ID]) {
			want = fmt.Sprint(p.Generation)
		}
		r.eventually("the programs have run for "+want, func() bool { return r.on(h, "cat /tmp/ran 2>/dev/null || true") == want })
		r.on(h, "ebs-release-agent verify")
	}
}
