package e2e

import (
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/policy"
)

// TestLaunchHook: an instance comes into service when its release is there and its programs say so,
// and no sooner; the group is later than the boot (row 37).
func TestLaunchHook(t *testing.T) {
	r := published(t, func(o *lab.Options) {
		o.AgentSettings["launch-hook"] = "ebs-release"
		o.Latency.Hook = cloud.Fixed(3 * time.Second)
	})
	launched := r.launchesOne(60 * time.Second)
	state := func() string { return launched().State }
	r.eventually("the group launches", func() bool { return state() != "" })
	h, err := r.lab.Booted(within(t, 60*time.Second), launched().InstanceID)
	must(t, err)
	r.on(h, `mkdir -p /etc/ebs-release/ready.d && printf '#!/bin/sh\nid -un > /tmp/asked; test -e /tmp/serves || { echo no socket yet; exit 1; }\n' > /etc/ebs-release/ready.d/10-http
chmod 755 /etc/ebs-release/ready.d/10-http`)
	ended := make(chan string, 1)
	go func() {
		out, err := h.Run(within(t, 60*time.Second), "timeout", "--preserve-status", "20", "ebs-release-agent", "launch") // it goes on as a watch
		if err != nil {
			out.Stderr += err.Error()
		}
		ended <- out.Stdout + out.Stderr
	}()
	r.eventually("the group waits, and the programs are asked", func() bool {
		return state() == "Pending:Wait" && strings.TrimSpace(r.on(h, "cat /tmp/asked 2>/dev/null || true")) == lab.SSHUser
	})
	select {
	case said := <-ended:
		t.Fatalf("it has ended before the application serves: %s", said)
	default:
	}
	doctor := func() (line string) {
		out, _ := h.Run(within(t, 60*time.Second), "ebs-release-agent", "doctor")
		for line = range strings.Lines(out.Stdout) {
			if strings.Contains(line, "launch hook") {
				return line
			}
		}
		return ""
	}
	if line := doctor(); !strings.Contains(line, "ok") || !strings.Contains(line, "ebs-release of app, 1m0s") || state() != "Pending:Wait" {
		t.Errorf("doctor: %q, and the instance is %s", line, state())
	}
	r.on(h, "sed -i 's/^launch-hook = .*/launch-hook = \"other\"/' /etc/ebs-release/agent.toml")
	if line := doctor(); !strings.Contains(line, "FAIL") || !strings.Contains(line, "has no hook other") {
		t.Errorf("doctor: %q", line)
	}
	r.on(h, "sed -i 's/^launch-hook = .*/launch-hook = \"ebs-release\"/' /etc/ebs-release/agent.toml")
	r.on(h, "touch /tmp/serves")
	r.eventually("it is in service", func() bool { return state() == "InService" })
	if said := <-ended; !strings.Contains(said, "no socket yet") || !strings.Contains(said, "the launch is completed") {
		t.Errorf("it says %s", said)
	}
	if out, err := h.Run(within(t, 30*time.Second), "timeout", "--preserve-status", "5", "ebs-release-agent", "launch"); err != nil || out.Code != 0 || !strings.Contains(out.Stderr, "no launch to complete") {
		t.Errorf("after a reboot: %v, exit %d: %s", err, out.Code, out.Stderr)
	}
}

// TestDoctorOfALaunchHookWithoutARight: a right of packaging/iam/launch-hook.json that is missing
// is named before a launch needs it.
func TestDoctorOfALaunchHookWithoutARight(t *testing.T) {
	allowed := newRights()
	r := published(t, func(o *lab.Options) { o.Policy, o.AgentSettings["launch-hook"] = allowed.policy, "ebs-release" })
	must(t, r.lab.Account.CreateGroup(cloud.GroupSpec{
		Name: "app", Desired: 1, Launch: r.lab.Member(), Hooks: []cloud.Hook{{Name: "ebs-release", Launch: true, Timeout: time.Hour, Abandon: true}},
	}))
	r.eventually("the group launches", func() bool { return len(r.lab.Members("app")) > 0 })
	h, err := r.lab.Booted(within(t, 2*time.Minute), r.lab.Members("app")[0].InstanceID)
	must(t, err)
	for action, state := range map[string]string{
		"CompleteLifecycleAction": "FAIL", "RecordLifecycleActionHeartbeat": "FAIL", "DescribeLifecycleHooks": "warn", "DescribeAutoScalingInstances": "FAIL",
	} {
		allowed.deny("autoscaling:" + action)
		r.diagnosed(h, state, "launch hook", []string{"allow autoscaling:" + action})
	}
	allowed.deny()
	r.diagnosed(h, "ok", "launch hook", []string{"ebs-release of app"})
}

// launchesOne makes the group app of one member, whose launch hook waits that long, and returns who
// it is as the group has it.
func (r *rig) launchesOne(timeout time.Duration) func() cloud.Member {
	r.Helper()
	spec := r.lab.Member()
	spec.Role = policy.LaunchedRole
	must(r, r.lab.Account.CreateGroup(cloud.GroupSpec{
		Name: "app", Desired: 1, Launch: spec, Hooks: []cloud.Hook{{Name: "ebs-release", Launch: true, Timeout: timeout, Abandon: true}},
	}))
	return func() (m cloud.Member) {
		for _, g := range r.lab.Account.Groups() {
			if g.Name == "app" && len(g.Members) > 0 {
				m = g.Members[0]
			}
		}
		return m
	}
}
