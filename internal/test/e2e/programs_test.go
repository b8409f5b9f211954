package e2e

import (
	"strings"
	"testing"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/host"
)

// install puts the operator's programs on a member: a load balancer is the file /tmp/in, which
// drain.d removes and activate.d makes; ready.d succeeds at the second try. /tmp/did has what ran.
func (r *rig) install(h *host.Host) {
	r.Helper()
	r.on(h, `cd /etc/ebs-release; mkdir -p stage.d drain.d activate.d ready.d; touch /tmp/in /tmp/did; chmod 666 /tmp/in /tmp/did; chmod 1777 /tmp
put() { { echo '#!/bin/sh'; echo "echo ${1%.d/*} \$EBS_RELEASE_GENERATION \$(id -un) >> /tmp/did"; cat; } > "$1"; chmod 755 "$1"; }
put stage.d/10-smoke <<'END'
[ "$(cat $EBS_RELEASE_STAGED/version)" != bad ] || { echo it is broken; exit 7; }
END
put drain.d/10-lb <<'END'
> /tmp/drained
rm -f /tmp/in
while [ -e /tmp/hold ]; do sleep 0.05; done
[ ! -e /tmp/busy ] || { echo connections are open; exit 8; }
END
put activate.d/10-lb <<'END'
touch /tmp/in; rm -f /tmp/asked
END
put ready.d/10-http <<'END'
[ -e /tmp/asked ] || { > /tmp/asked; echo connection refused; exit 7; }
END
chown `+lab.SSHUser+` /tmp/in`)
}

// inService fails unless a member has a version, and its application is in the load balancer.
func (r *rig) inService(h *host.Host, version string) {
	r.Helper()
	if got := r.on(h, "cat /release/current/version; ls /tmp/in"); got != version+"\n/tmp/in" {
		r.Errorf("%s: %q, want %s", h.ID, got, version)
	}
}

const aRound = "stage %d deploy\ndrain %d deploy\nactivate %d deploy\nready %d deploy\nready %d deploy"

// did is what ran on a member since the last time, one line each.
func (r *rig) did(h *host.Host) string {
	r.Helper()
	return r.on(h, "cat /tmp/did; > /tmp/did")
}

func round(generation, user string) string {
	return strings.NewReplacer("%d", generation, "deploy", user).Replace(aRound)
}

// runsAll installs programs on members, and publishes release two: all of them run, in their order.
func (r *rig) runsAll(members []*host.Host) {
	r.Helper()
	for _, h := range members {
		r.install(h)
	}
	r.sh("echo two > /srv/source/version")
	r.ok("publish", "/srv/source")
	for _, h := range members {
		if got := r.did(h); got != round("2", lab.SSHUser) {
			r.Errorf("%s ran\n%s", h.ID, got)
		}
		r.inService(h, "two")
	}
}

func TestProgramsAroundAFlip(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.PublisherSettings["converge-deadline"] = "15s" })
	members := r.scale(2)
	r.runsAll(members)

	r.sh("echo bad > /srv/source/version")
	refused(t, r.publisher("publish", "/srv/source"), 3, "nothing was changed", "none of 2 members", "stage.d: 10-smoke ended with exit code 7: it is broken")
	for _, h := range members {
		r.inService(h, "two")
	}

	// One cannot drain: it stays in service with what it has, and stands as failed.
	r.on(members[0], "touch /tmp/busy")
	r.sh("echo three > /srv/source/version")
	refused(t, r.publisher("publish", "/srv/source"), 5, members[0].ID, "drain.d: 10-lb ended with exit code 8: connections are open")
	r.inService(members[0], "two")
	r.inService(members[1], "three")
	r.on(members[0], "rm /tmp/busy")
	r.ok("converge")
	r.inService(members[0], "three")
	r.did(members[0])
	r.ok("rollback") // stage.d is not asked about the way back
	if got := r.did(members[0]); !strings.HasPrefix(got, "drain ") {
		t.Errorf("a rollback ran\n%s", got)
	}

	// The agent's end of the push is killed between drain and flip: the publisher's next try goes on.
	first := members[0]
	r.on(first, "rm -f /tmp/drained; touch /tmp/hold")
	r.sh("echo four > /srv/source/version")
	ended := make(chan host.Output, 1)
	go func() { ended <- r.publisher("publish", "/srv/source") }()
	r.eventually("it is drained", func() bool { return r.on(first, "ls /tmp/drained 2>/dev/null || true") != "" })
	r.on(first, "kill -KILL $(pgrep -f '[e]bs-release-agent receive'); rm /tmp/hold")
	if out := <-ended; out.Code != 0 {
		t.Errorf("exit %d, %s", out.Code, out.Stderr)
	}
	r.inService(first, "four")
	r.stand(first.ID, "current")
}

// TestProgramsOfAFollower: killed while it drains, and with the store away, the next start puts the
// application back into service, with the release that is served.
func TestProgramsOfAFollower(t *testing.T) {
	r := published(t, func(o *lab.Options) {
		o.Follow = true
		o.AgentSettings["follow-interval"] = "1s"
		o.PublisherSettings["reach"], o.PublisherSettings["ssh-key"] = "follow", "/nowhere"
		o.PublisherSettings["converge-deadline"] = "15s"
	})
	members := r.scale(2)
	first := members[0]
	r.runsAll(members)
	r.on(first, "rm -f /tmp/drained; touch /tmp/hold")
	r.sh("echo three > /srv/source/version")
	ended := make(chan host.Output, 1)
	go func() { ended <- r.publisher("publish", "/srv/source") }()
	r.eventually("it is drained", func() bool { return r.on(first, "ls /tmp/drained 2>/dev/null || true") != "" })
	r.on(first, "kill -KILL $(pgrep -f '[e]bs-release-agent follow') $(pgrep -f '[e]bs-release-agent before'); rm /tmp/hold")
	if got := r.on(first, "ls /tmp/in 2>/dev/null || true"); got != "" {
		t.Error("it is in service")
	}
	if out := <-ended; out.Code != 5 {
		t.Errorf("exit %d, %s", out.Code, out.Stderr)
	}
	const store = lab.PointerStore
	r.sh("mv " + store + " " + store + ".away")
	r.on(first, "setsid ebs-release-agent follow > /run/follow.log 2>&1 < /dev/null & true")
	r.eventually("it is in service again", func() bool { return r.on(first, "ls /tmp/in 2>/dev/null || true") != "" })
	r.inService(first, "two")
	r.sh("mv " + store + ".away " + store)
	r.eventually("it goes on", func() bool { return r.version(first) == "three" })
	r.ok("converge")
	r.inService(first, "three")

	// What a program refuses is seen, and another release goes through.
	r.sh("echo bad > /srv/source/version")
	go func() { ended <- r.publisher("publish", "/srv/source") }()
	r.eventually("status names the program", func() bool {
		return strings.Contains(r.seen(first).Follow.Trouble, "stage.d: 10-smoke ended with exit code 7: it is broken")
	})
	r.inService(first, "three")
	if out := <-ended; out.Code != 5 {
		t.Errorf("exit %d, %s", out.Code, out.Stderr)
	}
	r.sh("echo four > /srv/source/version")
	r.ok("publish", "/srv/source")
	r.inService(first, "four")
}
