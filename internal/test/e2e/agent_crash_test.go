package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
)

// crashPoint is a moment at which the agent is killed.
type crashPoint struct {
	name  string
	setup func(r *rig, s *supervised) (disarm func())
}

// TestAgentCrashMatrix kills the agent at each effect that it has on the world, runs it again, and
// once more after a reboot. The points are recorded from a run: every request to EC2 and to the
// metadata service (before it takes effect, and after it with the answer lost), and every system
// call that writes, renames, sends or mounts; and from a run whose first volume ends in error,
// every request. A new effect is a new point by itself.
func TestAgentCrashMatrix(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.AgentSettings["deadline"] = "60s" })
	p := r.pointerNow()
	started := time.Now()
	points := r.recordCrashPoints()
	missed := make(chan string, len(points))
	each(t, len(points), 4, func(i int) error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		h, err := r.launch(ctx, r.idle())
		if err != nil {
			return err
		}
		crashed, err := r.crash(ctx, h, "one", points[i], func(readies int) error { return r.served(h, p, "one", readies) })
		if err != nil {
			return fmt.Errorf("killed at %d, %s: %w", i+1, points[i].name, err)
		}
		if !crashed {
			missed <- points[i].name
		}
		return nil
	})
	if len(missed) > len(points)/10 { // threads and polls make two runs differ by an effect or two
		t.Errorf("%d of %d crash points were not reached", len(missed), len(points))
	}
	fmt.Printf("crash matrix: %d crash points\n", len(points))
	t.Logf("%d points, %d of them beyond the end of their run, %s", len(points), len(missed), time.Since(started).Round(time.Second))
}

// recordCrashPoints runs the agent twice: once when all goes well, for system calls and requests,
// and once when it has to replace its first volume.
func (r *rig) recordCrashPoints() (points []crashPoint) {
	r.Helper()
	h := r.machine()
	trace := agentTracer(0)
	out := (&supervised{host: h, start: trace.attach}).up(within(r, 60*time.Second))
	must(r, <-trace.done)
	if out.Code != 0 {
		r.Fatalf("the recorded run: exit %d\n%s", out.Code, out.Stderr)
	}
	for i, what := range trace.seen {
		points = append(points, crashPoint{"in place of " + what, func(_ *rig, s *supervised) func() {
			trace := agentTracer(i + 1)
			s.start = trace.attach
			return func() { must(r, <-trace.done) }
		}})
	}
	none := cloud.Fault{Action: "none"}
	points = append(points, requestPoints(r.requests(h), "", none)...)
	must(r, r.gone(within(r, 30*time.Second), h))

	lost := cloud.Fault{Action: "CreateVolume", Times: 1, Effect: disk(cloud.DiskFault{Error: true})}
	h = r.machine()
	lost.Principal = h.ID
	disarm := r.lab.Account.Fault(lost)
	must(r, failed(agent(within(r, 60*time.Second), h)))
	disarm()
	if n := r.count(h.ID, "CreateVolume", "-"); n != 2 {
		r.Errorf("the run that loses a volume made %d", n)
	}
	points = append(points, requestPoints(r.requests(h), "a volume is lost, ", lost)...)
	must(r, r.gone(within(r, 30*time.Second), h))
	return points
}

// requestPoints are a point before and one after each of the requests of a run in which a fault was
// armed.
func requestPoints(requests []cloud.Call, name string, armed cloud.Fault) (points []crashPoint) {
	for n, c := range requests {
		for _, after := range []bool{false, true} {
			name := name + map[bool]string{false: "before ", true: "answer lost: "}[after] + c.Service + " " + c.Action
			points = append(points, crashPoint{name, func(r *rig, s *supervised) func() {
				s.start = func(int) error { return nil }
				armed := armed // of this host
				armed.Principal = s.host.ID
				kill := r.lab.Account.Fault(cloud.Fault{
					Principal: s.host.ID, Skip: n, Times: 1,
					Effect: cloud.Effect{Do: func(cloud.Call) { s.kill() }, Fail: cloud.Reset, After: after},
				})
				other := r.lab.Account.Fault(armed)
				return func() { kill(); other() }
			}})
		}
	}
	return points
}

// crash kills the agent at a point and checks all that must hold from then on; crashed: it did not
// end before.
func (r *rig) crash(ctx context.Context, h *host.Host, version string, point crashPoint, served func(readies int) error) (crashed bool, err error) {
	s := &supervised{host: h}
	disarm := point.setup(r, s)
	out := s.up(ctx)
	disarm()
	crashed = out.Code != 0
	if crashed && out.Code != 128+9 && out.Code != -1 {
		return crashed, fmt.Errorf("it was to be killed, and ended with exit %d: %s", out.Code, out.Stderr)
	}
	said, err := readyCount(h)
	if err != nil || said > 1 || said == 0 && !crashed {
		return crashed, fmt.Errorf("READY=1 was said %d times (%v)", said, err)
	}
	// Whatever was said or mounted by then was right.
	if got, err := visible(h); err != nil || got != "" && got != version || said > 0 && got == "" {
		return crashed, fmt.Errorf("right after the crash, READY=1 said %d times, /release shows %q (%v)", said, got, err)
	}
	again := agent(ctx, h)
	if again.Code != 0 {
		return crashed, fmt.Errorf("up again: exit %d: %s", again.Code, again.Stderr)
	}
	if err := served(said + 1); err != nil {
		return crashed, fmt.Errorf("up again: %w\n%s", err, again.Stderr)
	}
	if err := r.lab.Reboot(ctx, h.ID); err != nil {
		return crashed, err
	}
	if again = agent(ctx, h); again.Code != 0 {
		return crashed, fmt.Errorf("after a reboot: exit %d: %s", again.Code, again.Stderr)
	}
	if err := served(1); err != nil {
		return crashed, fmt.Errorf("after a reboot: %w\n%s", err, again.Stderr)
	}
	return crashed, r.gone(ctx, h)
}
