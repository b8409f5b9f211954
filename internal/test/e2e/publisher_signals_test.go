package e2e

import (
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab/host"
)

// A terminal that closes, and a reader that goes away, end no publish that is committed: its
// members would stay behind. Who means it says it twice.
func TestSignalsAfterTheCommit(t *testing.T) {
	r := published(t, nil)
	hosts := r.scale(2)
	for _, h := range hosts { // the flip is done, and P5 waits for this
		r.on(h, `mkdir -p /etc/ebs-release/activate.d; printf '#!/bin/sh\ntouch /run/flipped; while [ -e /run/hold ]; do sleep 0.05; done\n' > /etc/ebs-release/activate.d/10-wait; chmod 755 /etc/ebs-release/activate.d/10-wait`)
	}
	// during runs a publish of another version, and do as soon as the first member has flipped.
	during := func(version, command string, do func()) host.Output {
		t.Helper()
		r.sh("echo " + version + " > /srv/source/version")
		for _, h := range hosts {
			r.on(h, "rm -f /run/flipped; touch /run/hold; chmod 777 /run")
		}
		done := make(chan host.Output, 1)
		go func() {
			out, _ := r.server.Run(within(r, 90*time.Second), "sh", "-c", command)
			done <- out
		}()
		r.on(hosts[0], "for i in $(seq 600); do [ -e /run/flipped ] && exit 0; sleep 0.05; done; exit 1")
		do()
		for _, h := range hosts {
			r.on(h, "rm /run/hold")
		}
		return <-done
	}
	const (
		// Whoever runs the tests under nohup(1) has the programs ignore SIGHUP, as they should.
		publish = "sh -c 'echo $$ > /run/publisher.pid; exec env --default-signal=HUP ebs-release publish /srv/source'"
		ended   = "; echo ended with $?"
		told    = publish + " 2> /run/publisher.said" + ended + "; cat /run/publisher.said >&2"
	)
	// said waits until the publisher has taken the first signal: a second one that comes while the
	// first is pending is none.
	said := func() {
		t.Helper()
		r.sh("for i in $(seq 600); do grep -q 'a signal came after the commit' /run/publisher.said && exit 0; sleep 0.05; done; exit 1")
	}
	converged := func(out host.Output, generation int64) {
		t.Helper()
		s := r.status()
		if !strings.Contains(out.Stdout, "ended with 0\n") || s.Generation != generation || len(s.Members) != 2 {
			t.Errorf("%s%s%+v", out.Stdout, out.Stderr, s)
		}
		for _, m := range s.Members {
			if m.Standing != "current" {
				t.Errorf("%+v", m)
			}
		}
		if e := r.history()[0]; e.Generation != generation || e.Result != "converged" || e.OnIt != 2 {
			t.Errorf("the history has %+v", e)
		}
	}

	out := during("two", told, func() {
		r.signalPublisher("HUP")
		said()
		r.signalPublisher("HUP") // the kernel sends it, and the shell
	})
	converged(out, 2)
	if !strings.Contains(out.Stderr, "a signal came after the commit: the members are still brought to generation 2") {
		t.Errorf("nothing was said: %s", out.Stderr)
	}

	converged(during("three", "{ { "+publish+ended+" >&3; } 2>&1 | head -n 1 >/dev/null; } 3>&1", func() {}), 3)
	converged(during("four", "{ { ebs-release publish /srv/source --output json; echo ended with $? >&3; } | true; } 3>&1", func() {}), 4)

	out = during("five", told, func() {
		r.signalPublisher("INT")
		said()
		r.signalPublisher("INT")
	})
	if !strings.Contains(out.Stdout, "ended with 130\n") || !strings.Contains(lastLine(out.Stderr), "generation 5 is committed, `ebs-release converge`") {
		t.Errorf("%s%s", out.Stdout, out.Stderr)
	}
	r.ok("converge")
	if s := r.status(); s.Generation != 5 || s.Members[0].Standing != "current" || s.Members[1].Standing != "current" {
		t.Errorf("%+v", s)
	}
}
