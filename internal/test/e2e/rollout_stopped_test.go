package e2e

import (
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab/host"
)

// TestRolloutWhoseDriverIsStopped stops the driver for longer than a member may take to be healthy,
// and than a gate may take: neither is held against the release when it goes on. A driver that is
// killed takes its gate with it, and all that the gate has started.
func TestRolloutWhoseDriverIsStopped(t *testing.T) {
	const patience, most = 15 * time.Second, 6 * time.Second
	r, members := fleetOf(t, 2, true, false) // by ssh a driver waits for a member's answer, and looks at nothing
	for _, h := range members {
		r.on(h, `mkdir -p /etc/ebs-release/ready.d && printf '#!/bin/sh\ntest ! -e /run/waits\n' > /etc/ebs-release/ready.d/10-waits && \
chmod 755 /etc/ebs-release/ready.d/10-waits && touch /run/waits`)
	}
	start := func(version string, more string) <-chan host.Output {
		r.sh("echo " + version + " > /srv/source/version")
		ended := make(chan host.Output, 1)
		go func() {
			out, _ := r.server.Run(within(r, 90*time.Second), "sh", "-c", "sh -c 'echo $$ > /run/publisher.pid; exec ebs-release publish /srv/source --no-snapshot "+
				"--steps 1 --health-timeout "+patience.String()+" --hook-timeout "+most.String()+" "+more+"'; exit $?")
			ended <- out
		}()
		return ended
	}
	await := func(what, script string) {
		r.eventually(what, func() bool { return r.sh("if "+script+"; then echo yes; fi") == "yes" })
	}
	stopped := func(lasts time.Duration) {
		r.signalPublisher("STOP")
		time.Sleep(lasts) // what is tried
		r.signalPublisher("CONT")
	}

	ended := start("two", "")
	r.eventually("a member has it, and does not come up", func() bool { return r.have(members, "two") == 1 })
	stopped(patience + 5*time.Second)
	time.Sleep(2 * time.Second) // some looks find it as it was
	for _, h := range members {
		r.on(h, "rm /run/waits")
	}
	if out := <-ended; out.Code != 0 {
		t.Fatalf("exit %d\n%s", out.Code, out.Stderr)
	}
	r.allHave(members, "two", 2)

	// The gate's time is up when it goes on.
	ended = start("three", `--gate "echo >> /run/asked; until test -e /run/go; do sleep 0.1; done"`)
	await("the gate runs", "test -e /run/asked")
	stopped(most + 4*time.Second)
	r.sh("sleep 1; touch /run/go")
	if out := <-ended; out.Code != 0 {
		t.Fatalf("exit %d\n%s", out.Code, out.Stderr)
	}
	if got := len(strings.Fields(r.sh("sed s/^/x/ /run/asked"))); got < 2 || got > 4 {
		t.Errorf("the gate was asked %d times in two steps", got)
	}
	r.allHave(members, "three", 3)

	ended = start("four", `--hook-timeout 5m --gate "sleep 4711 | cat & (setsid sleep 4712 &); sleep 4713"`)
	await("the gate runs", "test $(pgrep -cx sleep) -ge 3")
	r.signalPublisher("KILL")
	<-ended
	await("all of the gate is gone", "! pgrep -f 'sleep 471[123]' > /dev/null")
	r.ok("rollout", "abort")
	r.allHave(members, "three", 5)
}
