package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/host"
)

// TestRollout is what an operator does with rollouts, by ssh and by follow, on both stores.
func TestRollout(t *testing.T) {
	for _, follow := range []bool{false, true} {
		for _, inS3 := range []bool{false, true} {
			t.Run(fmt.Sprintf("follow %v, S3 %v", follow, inS3), func(t *testing.T) { rollouts(t, follow, inS3) })
		}
	}
}

// fleet is a lab with members that run a program at each flip, which refuses a release with a file
// "bad".
func fleetOf(t *testing.T, n int32, follow, inS3 bool) (*rig, []*host.Host) {
	t.Helper()
	r := published(t, func(o *lab.Options) {
		o.Follow, o.S3 = follow, inS3
		if follow {
			o.AgentSettings["follow-interval"] = "1s"
			o.PublisherSettings["reach"] = "follow"
			o.PublisherSettings["ssh-key"] = "/nowhere"
		}
		o.PublisherSettings["health-timeout"] = "30s"
	})
	members := r.scale(n)
	for _, h := range members {
		r.on(h, `mkdir -p /etc/ebs-release/activate.d && printf '#!/bin/sh\ntest ! -e /release/current/bad || { echo it is bad; exit 7; }\n' > \
/etc/ebs-release/activate.d/50-reload && chmod 755 /etc/ebs-release/activate.d/50-reload`)
	}
	r.sh(`mkdir -p /etc/ebs-release/rollout.d && printf '#!/bin/sh\necho "$EBS_RELEASE_EVENT $EBS_RELEASE_STEP" >> /run/heard\ncat >> /run/json\n' > \
/etc/ebs-release/rollout.d/50-log && chmod 755 /etc/ebs-release/rollout.d/50-log`)
	return r, members
}

// have counts the members whose release has a version.
func (r *rig) have(members []*host.Host, version string) (n int) {
	r.Helper()
	for _, h := range members {
		if r.version(h) == version {
			n++
		}
	}
	return n
}

func (r *rig) allHave(members []*host.Host, version string, generation int64) {
	r.Helper()
	if n := r.have(members, version); n != len(members) {
		r.Fatalf("%d of %d members have %q", n, len(members), version)
	}
	var s struct {
		Generation int64
		Rollout    any
		Members    []struct {
			Standing   string
			Generation int64
		}
	}
	must(r, json.Unmarshal([]byte(r.ok("status", "--output", "json")), &s))
	for _, m := range s.Members {
		if m.Standing != "current" || m.Generation != generation {
			r.Fatalf("a member stands %+v", m)
		}
	}
	if s.Generation != generation || s.Rollout != nil {
		r.Fatalf("generation %d, want %d, %v", s.Generation, generation, s.Rollout)
	}
}

func rollouts(t *testing.T, follow, inS3 bool) {
	r, members := fleetOf(t, 4, follow, inS3)
	publish := func(version string, more ...string) host.Output {
		r.sh("echo " + version + " > /srv/source/version")
		return r.publisher(append([]string{"publish", "/srv/source", "--no-snapshot", "--steps", "1,50%"}, more...)...)
	}
	// A good one.
	out := publish("two", "--bake", "1s", "--at-once", "1", "--watch", "true", "--gate",
		`echo "$EBS_RELEASE_SHARE: $EBS_RELEASE_MEMBERS_HEALTHY of $EBS_RELEASE_MEMBERS" >> /run/gates`)
	if out.Code != 0 || !strings.Contains(out.Stdout, "generation 2 is current: 4/4 members on it") {
		t.Fatalf("exit %d\n%s%s", out.Code, out.Stdout, out.Stderr)
	}
	if got := r.sh("cat /run/gates"); got != "1: 1 of 4\n50%: 2 of 4\nall: 4 of 4" {
		t.Errorf("the gate was told\n%s", got)
	}
	if got, want := strings.Fields(r.sh("cat /run/heard"))[0], "began"; got != want {
		t.Errorf("rollout.d heard %s first", got)
	}
	r.allHave(members, "two", 2)

	// A bad one is stopped at its first step.
	r.sh("touch /srv/source/bad")
	out = publish("three")
	refused(t, out, 6, "rolled back at step 1 of 3, as generation 4", "1 of 1 member with the release failed")
	r.allHave(members, "two", 4)
	r.sh("rm /srv/source/bad")

	// So is one whose gate is red; and one whose watch is red does not even begin.
	refused(t, publish("four", "--gate", "echo too many errors; exit 3"), 6, "the gate is red: gate ended with exit code 3: too many errors")
	r.allHave(members, "two", 6)
	refused(t, publish("four", "--watch", "echo alarm; exit 1"), 3, "the watch is red before the rollout begins", "alarm")
	r.allHave(members, "two", 6)

	// One that pauses refuses the next publish, shows who has it, and goes on by hand.
	refused(t, publish("five", "--gate", "test -e /run/go", "--no-rollback"), 8, "is paused at step 1 of 3")
	if n := r.have(members, "five"); n != 1 {
		t.Errorf("%d members have it", n)
	}
	refused(t, publish("six"), 4, "a rollout of generation 7 is at step 1 of 3 (1)", "and paused")
	if said := r.ok("status"); strings.Count(said, "new") != 1 || strings.Count(said, "stable") < 3 {
		t.Errorf("status:\n%s", said)
	}
	r.ok("converge", "--no-snapshot")
	if n := r.have(members, "five"); n != 1 {
		t.Errorf("after a converge %d members have it", n)
	}
	r.sh("touch /run/go")
	r.ok("rollout", "resume")
	r.allHave(members, "five", 7)

	// abort, finish and rollback end one that stands.
	for i, verb := range [][]string{{"rollout", "abort"}, {"rollout", "finish"}, {"rollback"}} {
		version := fmt.Sprintf("v%d", i)
		refused(t, publish(version, "--gate", "false", "--no-rollback"), 8)
		r.ok(verb...)
		switch verb[len(verb)-1] {
		case "abort":
			r.allHave(members, "five", 9)
		case "finish":
			r.allHave(members, version, 10)
		default:
			r.allHave(members, "v1", 12)
		}
	}

	// A hold keeps publishes back, and no rollback.
	r.ok("hold", "incident 4711")
	refused(t, publish("seven"), 4, "publishes are on hold", "incident 4711")
	if said := r.ok("rollout", "status"); !strings.Contains(said, "no rollout is open\npublishes are on hold") || !strings.Contains(said, "incident 4711") {
		t.Errorf("rollout status says\n%s", said)
	}
	r.ok("rollback", "--no-snapshot")
	r.ok("hold", "--release")
	if out := publish("seven"); out.Code != 0 {
		t.Fatalf("exit %d\n%s", out.Code, out.Stderr)
	}
	r.allHave(members, "seven", 14)
	verbs := r.ok("history", "--limit", "0")
	for _, want := range []string{"rollout step", "rollout resume", "rollout abort", "rollout finish", "hold --release"} {
		if !strings.Contains(verbs, want) {
			t.Errorf("the history has no %q:\n%s", want, verbs)
		}
	}
	for line := range strings.SplitSeq(r.sh("cat /run/json"), "\n") {
		if !json.Valid([]byte(line)) {
			t.Errorf("a program read %q", line)
		}
	}
	if !slices.Contains(strings.Split(r.sh("cat /run/heard"), "\n"), "back 1") {
		t.Error("rollout.d did not hear of the way back")
	}
	r.refusedByStage(members, publish, follow)
}

// refusedByStage publishes what stage.d refuses: by ssh nobody takes it, and a member that follows
// says so, which ends the first step long before its time is up.
func (r *rig) refusedByStage(members []*host.Host, publish func(string, ...string) host.Output, follow bool) {
	r.Helper()
	for _, h := range members {
		r.on(h, `mkdir -p /etc/ebs-release/stage.d && printf '#!/bin/sh\ntest ! -e $EBS_RELEASE_STAGED/broken || { echo it is broken; exit 7; }\n' > \
/etc/ebs-release/stage.d/10-smoke && chmod 755 /etc/ebs-release/stage.d/10-smoke`)
	}
	r.sh("touch /srv/source/broken")
	defer r.sh("rm /srv/source/broken")
	const says = "stage.d: 10-smoke ended with exit code 7: it is broken"
	if !follow {
		refused(r.T, publish("stage"), 3, "nothing was changed", says)
		return
	}
	began := time.Now()
	refused(r.T, publish("stage", "--health-timeout", "10m", "--no-rollback"), 8, "refuses the release", says)
	if took := time.Since(began); took > time.Minute {
		r.Errorf("it took %v", took)
	}
	if said := r.ok("status"); !strings.Contains(said, "it refuses the release: run /etc/ebs-release/"+says) {
		r.Errorf("status:\n%s", said)
	}
	r.ok("rollout", "abort")
}
