package e2e

import (
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
)

// TestRolloutByTargetGroups: what the load balancer says of a member decides, and a release that it
// finds unhealthy is stopped at the first one.
func TestRolloutByTargetGroups(t *testing.T) {
	r := newRig(t, func(o *lab.Options) {
		o.PublisherSettings["groups"] = "balanced"
		o.PublisherSettings["health-timeout"] = "10s"
		o.PublisherSettings["healthy"] = "target-groups"
		o.PublisherSettings["steps"] = "1"
		o.PublisherSettings["at-once"] = "1"
		o.PublisherSettings["bake"] = "3s"
	})
	arn, err := r.lab.Account.CreateTargetGroup(cloud.TargetGroupSpec{Name: "balanced", Port: 8000, HealthPath: "/health",
		Interval: 200 * time.Millisecond, Timeout: 2 * time.Second, HealthyAfter: 2, DeregistrationDelay: time.Second})
	must(t, err)
	must(t, r.lab.Account.CreateGroup(cloud.GroupSpec{
		Name: "balanced", Max: 3, Desired: 0, Launch: r.lab.Member(), Traffic: cloud.Traffic{Sources: []string{arn}},
	}))
	r.ok("init", "--size", "1")
	r.sh("mkdir -p /srv/source && cd /srv/source && echo one > version && echo fine > health")
	r.ok("publish", "/srv/source")
	must(t, r.lab.Account.SetDesired("balanced", 3))
	members, err := r.lab.AllBooted(within(t, time.Minute), "balanced", 3)
	must(t, err)
	for _, h := range members {
		r.on(h, "setsid python3 -m http.server --directory /release/current 8000 > /dev/null 2>&1 &")
	}
	must(t, r.lab.Account.Wait(within(t, time.Minute), func() bool {
		healthy := 0
		for _, target := range r.lab.Account.TargetGroups()[0].Targets {
			if target.State == "healthy" {
				healthy++
			}
		}
		return healthy == 3
	}))
	if said := r.ok("doctor"); !strings.Contains(said, "all, by target-groups") {
		t.Errorf("doctor:\n%s", said)
	}
	r.sh("echo two > /srv/source/version")
	r.ok("publish", "/srv/source", "--no-snapshot")
	r.allHave(members, "two", 2)

	r.sh("echo three > /srv/source/version && rm /srv/source/health")
	refused(t, r.publisher("publish", "/srv/source", "--no-snapshot"), 6, "rolled back at step 1 of 2, as generation 4", "Target.ResponseCodeMismatch")
	r.allHave(members, "two", 4)
}
