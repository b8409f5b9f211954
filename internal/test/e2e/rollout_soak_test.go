package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
)

// TestSoakOfRolloutsThatMembersFollow begins five with a store in S3 and nobody who dials: the
// fourth loses its publisher, and the last one is bad.
func TestSoakOfRolloutsThatMembersFollow(t *testing.T) {
	soakRollouts(t, 5, func(o *lab.Options) {
		o.Follow, o.S3 = true, true
		o.AgentSettings["follow-interval"] = "1s"
		o.PublisherSettings["reach"] = "follow"
		o.PublisherSettings["ssh-key"] = "/nowhere"
	})
}

// TestSoakOfRolloutsUnderScaling begins 30 rollouts behind a load balancer while the group's
// capacity changes: every fifth is of a bad release, and every seventh loses its publisher. Clients
// ask all the time, and no request fails. In the end nobody is stale, and nobody is stranded.
func TestSoakOfRolloutsUnderScaling(t *testing.T) { soakRollouts(t, 30, func(*lab.Options) {}) }

func soakRollouts(t *testing.T, rollouts int, change func(*lab.Options)) {
	b := newBalanced(t, func(o *lab.Options) {
		inSteps(o)
		change(o)
		o.Latency.Lag = cloud.Lag{Chance: 0.2, Max: 300 * time.Millisecond}
		o.PublisherSettings["settle"] = "350ms" // above the lag
		o.PublisherSettings["keep"] = "3"
		o.AgentSettings["deadline"] = "2m"
		o.AgentSettings["ready-timeout"] = "8s"
	})
	b.scale(4)
	b.serving(4)
	started := time.Now()
	stop, scaling := b.clients(), b.scaleAround(4, 6, 4*time.Second)
	rng := rand.New(rand.NewPCG(6, 28))
	good, bad, killed, live := 0, 0, 0, "one"
	for n := range rollouts {
		version := fmt.Sprintf("soak %d", n)
		want := 0
		if n%5 == 4 {
			version, want = "bad "+version, 6
		}
		b.sh("echo '" + version + "' > /srv/source/version")
		var code int
		var said string
		if n%7 == 3 {
			b.killedRollout(time.Duration(rng.Int64N(int64(4 * time.Second))))
			killed++
			code = b.finished(b.publisher("rollout", "carry-on", "--force").Code)
		} else {
			out := b.publisher("publish", "/srv/source", "--no-snapshot")
			said = lastLine(out.Stderr)
			code = b.finished(out.Code)
		}
		is := b.currentVersion()
		switch {
		case code == 6 && is == live, n%7 == 3 && is == live:
			bad++ // on a busy machine a good one may take too long, and goes back
		case code == want:
			good++
		default:
			t.Fatalf("rollout %d of %q: exit %d; live is %q: %s", n, version, code, is, said)
		}
		if is != version && is != live || strings.HasPrefix(is, "bad") {
			t.Fatalf("rollout %d of %q: live is %q, and was %q", n, version, is, live)
		}
		live = is
	}
	scaling()
	count, fewest := stop()
	hosts := b.scale(4)
	b.ok("converge")
	b.noneStale(b.status().Generation, live)
	b.noneOrphaned(len(hosts))
	if good < rollouts/2 {
		t.Errorf("only %d rollouts came through", good)
	}
	if count.Failed > 0 || count.Requests < 1000 {
		t.Errorf("%d of %d requests failed: %q", count.Failed, count.Requests, count.Why)
	}
	t.Logf("%d rollouts in %v: %d came through, %d went back or did not begin, %d lost their publisher; %d requests, %d failed; at least %d members healthy",
		rollouts, time.Since(started).Round(time.Second), good, bad, killed, count.Requests, count.Failed, fewest)
}

// finished repeats what went on while members came and went until they are all on it.
func (b *balanced) finished(code int) int {
	for range 3 {
		if code != 5 {
			break
		}
		code = b.publisher("converge").Code
	}
	return code
}

// killedRollout kills a publisher, some time after its rollout has begun.
func (b *balanced) killedRollout(after time.Duration) {
	b.Helper()
	ctx, kill := context.WithCancel(within(b, 90*time.Second))
	ended := make(chan struct{})
	go func() { // ends with kill
		defer close(ended)
		b.server.Run(ctx, "ebs-release", "publish", "/srv/source", "--no-snapshot")
	}()
	for open := false; !open; {
		select {
		case <-ended:
			kill()
			return
		case <-time.After(50 * time.Millisecond):
		}
		open = b.published().Rollout != nil
	}
	select {
	case <-ended:
	case <-time.After(after):
	}
	kill()
	<-ended
}

// currentVersion is what the pointer's release says. The release volume may come after it, when a
// publisher was killed.
func (b *balanced) currentVersion() string {
	b.Helper()
	return b.sh("cat /release/releases/" + b.published().Release + "/version")
}

// inStore is what the pointer says, wherever it is.
type inStore struct {
	Release string
	Rollout any
}

func (b *balanced) published() (is inStore) {
	b.Helper()
	must(b, json.Unmarshal([]byte(b.ok("status", "--output", "json")), &is))
	return is
}
