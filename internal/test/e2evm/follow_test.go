package e2evm

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
)

// TestVMFollows: under a real systemd a member follows from inside its sandbox, the programs run
// outside of it, and a reboot and a stop are as clean as they are without it.
func TestVMFollows(t *testing.T) {
	r := newRig(t, setup{})
	must(t, r.lab.Account.SetDesired("web", 1))
	must(t, r.lab.InService(within(t, bootTime), "web", 1))
	m, err := r.lab.Machine(within(t, stepTime), r.lab.Members("web")[0].InstanceID)
	must(t, err)
	r.ready(m, "one")
	const follow, activate = "ebs-release-follow.service", "ebs-release-activate.service"
	if got := r.on(m, "systemctl is-enabled "+follow+" || true; systemctl is-active "+follow+" || true"); got != "disabled\ninactive" {
		t.Errorf("without a word of the operator it is %s", got)
	}
	r.on(m, `install -d /etc/ebs-release/activate.d; printf 'follow-interval = "2s"\nkeep = 3\n' >> /etc/ebs-release/agent.toml
printf '#!/bin/sh\necho $(id -un) $EBS_RELEASE_GENERATION $(grep NoNewPrivs /proc/self/status) $(basename $(cut -d: -f3 /proc/self/cgroup)) >> /tmp/ran
test ! -e /run/fail\n' > /etc/ebs-release/activate.d/50-reload; chmod 755 /etc/ebs-release/activate.d/50-reload
systemctl enable --now `+follow)

	reach := []string{"--reach", "follow", "--ssh-key", "/nowhere"}
	for i, name := range []string{"two", "three", "four", "five"} { // the oldest ones go
		r.publish(name, reach...)
		if got := r.on(m, "cat /release/current/version"); got != name {
			t.Errorf("it serves %s, want %s", got, name)
		}
		want := fmt.Sprintf("%s %d NoNewPrivs: 0 %s", lab.SSHUser, i+2, activate)
		if got := r.on(m, "tail -n 1 /tmp/ran"); got != want {
			t.Errorf("the programs ran as %q, want %q", got, want)
		}
	}
	if got := r.on(m, "ls /release/releases | wc -l"); strings.TrimSpace(got) != "3" {
		t.Errorf("%s releases are kept", got)
	}
	r.on(m, "ebs-release-agent verify")

	r.on(m, "touch /run/fail")
	r.sh(source("six"))
	out, err := r.server.Run(within(t, stepTime), append([]string{"ebs-release", "publish", "/srv/source"}, reach...)...)
	if err == nil || out.Code != 5 || !strings.Contains(out.Stderr, "a hook failed on 1 of them") {
		t.Errorf("a program fails: exit %d, %s", out.Code, out.Stderr)
	}
	if got := r.on(m, "ebs-release-agent status"); !strings.Contains(got, "50-reload ended with exit code 1") {
		t.Errorf("status:\n%s", got)
	}
	r.on(m, "rm /run/fail")
	r.ok(append([]string{"converge"}, reach...)...)
	if got := r.properties(m, follow, "NRestarts", "Result", "ActiveState", "StatusText"); got["NRestarts"] != "0" || got["ActiveState"] != "active" ||
		!strings.Contains(got["StatusText"], "generation 6") {
		t.Errorf("the unit: %v", got)
	}

	r.reboot(m)
	r.ready(m, "six")
	r.on(m, `cd /etc/ebs-release
printf '#!/bin/sh\necho $(id -un) $EBS_RELEASE_GENERATION $(grep NoNewPrivs /proc/self/status) $(basename $(cut -d: -f3- /proc/self/cgroup)) >> /tmp/before\n' > stage.d/10-look
cp stage.d/10-look drain.d/10-look; chmod 755 stage.d/10-look drain.d/10-look`)
	r.publish("seven", reach...)
	want := ""
	for _, folder := range []string{"stage.d", "drain.d"} {
		want += fmt.Sprintf("%s 7 NoNewPrivs: 0 ebs-release-before@%s:7:%s.service\n", lab.SSHUser, folder, r.on(m, "basename $(readlink /release/current)"))
	}
	if got := r.on(m, "cat /tmp/before"); strings.TrimSpace(got) != strings.TrimSpace(want) {
		t.Errorf("before the flip ran\n%s\nwant\n%s", got, want)
	}
	if got := r.on(m, "cat /release/current/version"); got != "seven" {
		t.Errorf("after a reboot it serves %s", got)
	}
	began := time.Now()
	r.on(m, "systemctl stop "+follow)
	if got := r.properties(m, follow, "Result", "ExecMainStatus"); got["Result"] != "success" || got["ExecMainStatus"] != "0" || time.Since(began) > time.Minute {
		t.Errorf("stopped: %v, after %v", got, time.Since(began))
	}
	if got := r.on(m, "journalctl --boot --output=cat --priority=warning --unit="+follow); got != "" {
		t.Errorf("it warned:\n%s", got)
	}
}
