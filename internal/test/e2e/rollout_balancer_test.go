package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
)

// balanced has a group "balanced" of three members, each with generation 1 and a web server that
// the load balancer of its only target group finds healthy.
func (r *rig) balanced(delay time.Duration, traffic cloud.Traffic) []*host.Host {
	r.Helper()
	arn, err := r.lab.Account.CreateTargetGroup(cloud.TargetGroupSpec{Name: "balanced", Port: 8000, HealthPath: "/health",
		Interval: 200 * time.Millisecond, Timeout: 2 * time.Second, HealthyAfter: 2, DeregistrationDelay: delay})
	must(r, err)
	traffic.Sources = []string{arn}
	must(r, r.lab.Account.CreateGroup(cloud.GroupSpec{Name: "balanced", Max: 3, Desired: 0, Launch: r.lab.Member(), Traffic: traffic}))
	r.ok("init", "--size", "1")
	r.sh("mkdir -p /srv/source && cd /srv/source && echo one > version && echo fine > health")
	r.ok("publish", "/srv/source")
	must(r, r.lab.Account.SetDesired("balanced", 3))
	members, err := r.lab.AllBooted(within(r, time.Minute), "balanced", 3)
	must(r, err)
	for _, h := range members {
		r.on(h, "setsid python3 -m http.server --directory /release/current 8000 > /dev/null 2>&1 &")
	}
	must(r, r.lab.Account.Wait(within(r, time.Minute), func() bool {
		healthy := 0
		for _, target := range r.lab.Account.TargetGroups()[0].Targets {
			if target.State == "healthy" {
				healthy++
			}
		}
		return healthy == 3
	}))
	return members
}

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
	members := r.balanced(time.Second, cloud.Traffic{})
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

// TestRolloutThatKillsMembers: where only the programs decide who is healthy, Auto Scaling replaces
// the member that has a bad release, and it is gone from the count; that is told apart from a spot
// interruption.
func TestRolloutThatKillsMembers(t *testing.T) {
	r := newRig(t, func(o *lab.Options) {
		o.PublisherSettings["groups"] = "balanced"
		o.PublisherSettings["steps"] = "1"
		o.PublisherSettings["bake"] = "25s"
		o.Latency.Replace = cloud.Fixed(8 * time.Second)
	})
	members := r.balanced(2*time.Second, cloud.Traffic{ELBHealth: true, Grace: 15 * time.Second})

	r.sh("echo two > /srv/source/version && rm /srv/source/health")
	refused(t, r.publisher("publish", "/srv/source", "--no-snapshot"), 6, "rolled back at step 1 of 2, as generation 3",
		"with the release failed", "it was on the release, and Auto Scaling replaces it as unhealthy")

	// What launches here serves nothing, so from now on the load balancer has no say.
	must(t, r.lab.Account.SetDesired("balanced", 0))
	must(t, r.lab.Account.Wait(within(t, time.Minute), func() bool { return len(r.lab.Members("balanced")) == 0 }))
	members = r.scale(2)
	r.sh("echo three > /srv/source/version; echo fine > /srv/source/health")
	ended := make(chan host.Output, 1)
	go func() {
		ended <- r.publisher("publish", "/srv/source", "--no-snapshot", "--groups", "web", "--bake", "5s")
	}()
	var first *host.Host
	r.eventually("the first member has it", func() bool {
		at := slices.IndexFunc(members, func(h *host.Host) bool { return r.version(h) == "three" })
		if at >= 0 {
			first = members[at]
		}
		return first != nil
	})
	must(t, r.lab.Account.InterruptInstance(first.ID))
	if out := <-ended; out.Code != 0 {
		t.Errorf("exit %d\n%s", out.Code, out.Stderr)
	}
}
