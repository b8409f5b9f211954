package e2evm

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/vm"
)

const powerCuts = 20

var seed = flag.Uint64("seed", 0, "of the points at which TestVMPowerCuts cuts the power; 0: from the clock")

// request is one of an instance, to EC2 or the metadata service, while its agent runs.
type request struct {
	what string
	at   time.Duration // since the first one
}

// TestVMPowerCuts cuts the power of machines while their agents run, each at another point, and
// switches them on again. The points are spread evenly over the time of an undisturbed run, from
// its first request to the start of the application, so that waits and work on disks are hit as
// well as requests.
func TestVMPowerCuts(t *testing.T) {
	r := newRig(t, setup{latency: cloud.Realistic()})
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	fmt.Printf("power cuts: seed %d\n", *seed)
	rng := rand.New(rand.NewPCG(*seed, 0))
	requests, end := r.undisturbed()
	for i := range powerCuts {
		at := time.Duration((float64(i) + rng.Float64()) / powerCuts * float64(end))
		n := 0
		for n+1 < len(requests) && requests[n+1].at <= at {
			n++
		}
		wait := at - requests[n].at
		t.Run(fmt.Sprintf("%d %s after request %d %s", i+1, wait.Round(time.Millisecond), n+1, requests[n].what), func(t *testing.T) {
			t.Parallel()
			r := r.in(t)
			m := r.launch(member)
			r.cut(m, n, wait)
			must(t, m.PowerOn(t.Context()))
			r.ready(m, "one")
			must(t, r.lab.Account.TerminateInstance(m.ID))
			if err := r.lab.Account.Wait(within(t, stepTime), func() bool { return len(r.lab.VolumesFor(m.ID)) == 0 }); err != nil {
				t.Errorf("after the instance was terminated there is still: %+v", r.lab.VolumesFor(m.ID))
			}
		})
	}
}

// undisturbed records the requests of a boot, and when its application had started.
func (r *rig) undisturbed() (requests []request, end time.Duration) {
	r.Helper()
	m := r.launch(member)
	r.marked(m, starts("one"))
	now := time.Now()
	var first time.Time
	for _, c := range r.lab.Account.Calls() {
		if c.Principal == m.ID {
			if first.IsZero() {
				first = c.Start
			}
			requests = append(requests, request{c.Service + " " + c.Action, c.Start.Sub(first)})
		}
	}
	r.ready(m, "one")
	must(r, r.lab.Account.TerminateInstance(m.ID))
	r.Logf("an undisturbed boot made %d requests; from the first one to the application it took %s", len(requests), now.Sub(first).Round(time.Millisecond))
	return requests, now.Sub(first)
}

// cut cuts the power so long after request n (from 0) of the machine. A boot that makes fewer
// requests is cut when its application has started.
func (r *rig) cut(m *vm.Machine, n int, wait time.Duration) {
	r.Helper()
	reached := make(chan struct{})
	defer r.lab.Account.Fault(cloud.Fault{Principal: m.ID, Skip: n, Times: 1, Effect: cloud.Effect{Do: func(cloud.Call) { close(reached) }}})()
	through := make(chan error, 1)
	ctx := within(r, bootTime)
	go func() { // ends with the power
		through <- m.WaitMark(ctx, starts("one"))
	}()
	select {
	case <-reached:
		time.Sleep(wait) // the point is a moment, not an event
	case err := <-through:
		must(r, err)
		r.Logf("this boot made fewer than %d requests", n+1)
	}
	m.PowerCut()
}
