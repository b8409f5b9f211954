package e2e

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
)

// faultPoint is one request of the agent, and how it goes wrong.
type faultPoint struct {
	call   cloud.Call
	nth    int // of the calls of this action, from 0
	kind   faultKind
	always bool // from this call on; else once
}

type faultKind struct {
	name    string
	fail    cloud.Failure
	after   bool
	passing bool // of a kind that passes: once must not stop a boot
}

var faultKinds = []faultKind{
	{"throttled", cloud.Throttle, false, true},
	{"500", cloud.ServerError, false, true},
	{"reset before the effect", cloud.Reset, false, true},
	{"reset after the effect", cloud.Reset, true, true},
	{"no answer", cloud.Hang, false, true},
	{"not found", cloud.NotFound, false, false},
	{"unauthorized", cloud.Unauthorized, false, false},
}

// Deadlines of the agent in the matrix: one that a single call without an answer (it is given up
// after 10 s) fits into, and one to run into.
const (
	faultOnce   = 20 * time.Second
	faultAlways = 4 * time.Second
)

// TestAgentFaultMatrix makes each request of a recorded boot go wrong in each way, once and for
// good. The boot ends ready, or within its deadline with a line that names stage, cause and next
// step; and the next boot finds its way from whatever that left.
func TestAgentFaultMatrix(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.AgentSettings["deadline"] = "30s" })
	started := time.Now()
	h := r.machine()
	if out := agent(within(t, 30*time.Second), h); out.Code != 0 {
		t.Fatalf("the recorded run: exit %d\n%s", out.Code, out.Stderr)
	}
	var points []faultPoint
	nth := map[string]int{}
	for _, c := range r.requests(h) {
		for _, kind := range faultKinds {
			points = append(points, faultPoint{c, nth[c.Action], kind, false}, faultPoint{c, nth[c.Action], kind, true})
		}
		nth[c.Action]++
	}
	must(t, r.gone(within(t, 30*time.Second), h))
	p := r.pointerNow()
	each(t, len(points), 12, func(i int) error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		if err := r.strike(ctx, points[i], func(h *host.Host, readies int) error { return r.served(h, p, "one", readies) }); err != nil {
			f := points[i]
			return fmt.Errorf("%s %s (%d) %s, always %t: %w", f.call.Service, f.call.Action, f.nth+1, f.kind.name, f.always, err)
		}
		return nil
	})
	fmt.Printf("fault matrix: %d fault points\n", len(points))
	t.Logf("%d points in %s", len(points), time.Since(started).Round(time.Second))
}

// failure is the line that a failed boot ends with.
var failure = regexp.MustCompile(`^ebs-release-agent: (identify|resolve|adopt|create|look for newer|attach|protect|find device|check|mount|catch up|verify|may serve|report|re-read|ready): .+Try: .+$`)

func (r *rig) strike(ctx context.Context, f faultPoint, served func(h *host.Host, readies int) error) error {
	h, err := r.launch(ctx, r.idle())
	if err != nil {
		return err
	}
	fault := cloud.Fault{Action: f.call.Action, Principal: h.ID, Skip: f.nth, Times: 1, Effect: cloud.Effect{Fail: f.kind.fail, After: f.kind.after}}
	deadline := faultOnce
	if f.always {
		fault.Times, deadline = 0, faultAlways
	}
	disarm := r.lab.Account.Fault(fault)
	out := agent(ctx, h, "--deadline", deadline.String())
	disarm()
	readies := 0
	switch {
	case out.took > deadline+busy:
		return fmt.Errorf("it took %s: %s", out.took.Round(time.Millisecond), out.last())
	case out.Code == 0:
		readies = 1
		if err := served(h, 1); err != nil {
			return fmt.Errorf("it ended ready: %w\n%s", err, out.Stderr)
		}
	case f.kind.passing && !f.always:
		return fmt.Errorf("a fault that passes stopped the boot: %s", out.last())
	case out.Code != 1 || !failure.MatchString(out.last()) || strings.Count(out.last(), "Try: ") != 1:
		return fmt.Errorf("exit %d, and it says:\n%s", out.Code, out.Stderr)
	case ready(h) != 0 || len(mounts(h)) != 0:
		return fmt.Errorf("it failed, said READY=1 %d times and left the mounts %q", ready(h), mounts(h))
	case len(r.lab.VolumesFor(h.ID)) > 1:
		return fmt.Errorf("it left %s", show(r.lab.VolumesFor(h.ID)))
	}
	again := agent(ctx, h)
	if again.Code != 0 {
		return fmt.Errorf("the next boot: exit %d: %s", again.Code, again.Stderr)
	}
	if err := served(h, readies+1); err != nil {
		return fmt.Errorf("the next boot: %w\n%s", err, again.Stderr)
	}
	return r.gone(ctx, h)
}
