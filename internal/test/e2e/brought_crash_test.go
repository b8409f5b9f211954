package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/host"
)

// TestBroughtCrashMatrix kills the agent at each effect that a boot has which takes on a volume of
// the release before. Whatever is left of it, that volume is caught up and served in the end, and
// no other is made.
func TestBroughtCrashMatrix(t *testing.T) {
	// A disk of this machine may be slow for half a minute, beside tests that hang theirs.
	r := published(t, func(o *lab.Options) { o.AgentSettings["deadline"] = "90s" })
	spec := bringing(r.idle(), r.releaseSnapshot(1))
	r.sh("echo two > /srv/source/version")
	r.ok("publish", "/srv/source", "--groups", r.emptyGroup())
	h, err := r.launch(within(t, 30*time.Second), spec)
	must(t, err)
	trace := agentTracer(0)
	out := (&supervised{host: h, start: trace.attach}).up(within(t, 60*time.Second))
	must(t, <-trace.done)
	if out.Code != 0 {
		t.Fatalf("the recorded run: exit %d\n%s", out.Code, out.Stderr)
	}
	r.servesBrought(h, "two", 0, 1)
	must(t, r.lab.Account.TerminateInstance(h.ID))
	points := trace.seen
	missed := make(chan string, len(points))
	each(t, len(points), 4, func(i int) error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		h, err := r.launch(ctx, spec)
		if err != nil {
			return err
		}
		crashed, err := r.crash(ctx, h, "two", crashPoint{"", func(_ *rig, s *supervised) func() {
			trace := agentTracer(i + 1)
			s.start = trace.attach
			return func() { must(r, <-trace.done) }
		}}, func(int) error { return r.onBrought(h) })
		if err != nil {
			return fmt.Errorf("killed at %d, in place of %s: %w", i+1, points[i], err)
		}
		if !crashed {
			missed <- points[i]
		}
		return nil
	})
	if len(missed) > len(points)/10 {
		t.Errorf("%d of %d crash points were not reached", len(missed), len(points))
	}
	fmt.Printf("crash matrix of brought volumes: %d crash points\n", len(points))
}

// onBrought is nil when a member serves release two from the volume that came with it, and has no
// other.
func (r *rig) onBrought(h *host.Host) error {
	got, err := visible(h)
	brought := r.broughtTo(h.ID)
	switch own := r.lab.VolumesFor(h.ID); {
	case err != nil || got != "two" || len(mounts(h)) != 1:
		return fmt.Errorf("it serves %q in %d mounts (%v)", got, len(mounts(h)), err)
	case len(own) > 0 || len(brought) != 1 || len(brought[0].Tags) > 0:
		return fmt.Errorf("it has made %s, and came with %s", show(own), show(brought))
	}
	for _, c := range r.ofEC2(h) {
		if c.Action != "CreateTags" {
			return fmt.Errorf("it asked EC2 for %s", c.Action)
		}
	}
	return nil
}
