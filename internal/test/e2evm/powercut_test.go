package e2evm

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"ebs-release/internal/lab"
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

// TestVMPowerCutsOfAFollower cuts the power while a member catches up beside what it serves, flips
// and runs its programs: the next boot serves the release that was published, whole, and the member
// follows on.
func TestVMPowerCutsOfAFollower(t *testing.T) {
	r := newRig(t, setup{})
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	fmt.Printf("power cuts of a follower: seed %d\n", *seed)
	rng := rand.New(rand.NewPCG(*seed, 1))
	must(t, r.lab.Account.SetDesired("web", 1))
	must(t, r.lab.InService(within(t, bootTime), "web", 1))
	m, err := r.lab.Machine(within(t, stepTime), r.lab.Members("web")[0].InstanceID)
	must(t, err)
	r.ready(m, "one")
	r.on(m, `echo 'follow-interval = "1s"' >> /etc/ebs-release/agent.toml; systemctl enable --now ebs-release-follow.service; sync`)
	const cuts, within3s = 4, 3 * time.Second // an emulated member is on a release about 2 s after its commit
	for i := range cuts {
		name := fmt.Sprint("cut", i+1)
		wait := time.Duration((float64(i) + rng.Float64()) / cuts * float64(within3s))
		r.publishAndCut(m, name, wait)
		must(t, m.PowerOn(t.Context()))
		r.ready(m, name)
		if got := r.on(m, "cat /release/current/version; ls -a /release/releases /release/.ebs-release | grep -c partial || true"); got != name+"\n0" {
			t.Errorf("cut %s after the commit of %s: it serves, and has left, %q", wait.Round(time.Millisecond), name, got)
		}
		r.on(m, "ebs-release-agent verify")
	}
	r.publish("last", followers()...)
	if got := r.on(m, "cat /release/current/version"); got != "last" {
		t.Errorf("after %d cuts it serves %s", cuts, got)
	}
}

func followers() []string { return []string{"--reach", "follow", "--ssh-key", "/nowhere"} }

// publishAndCut cuts the power of a member so long after the commit of a release.
func (r *rig) publishAndCut(m *vm.Machine, name string, wait time.Duration) {
	r.Helper()
	pointer := r.server.Path(lab.PointerStore + "/release.json")
	before, err := os.ReadFile(pointer)
	must(r, err)
	r.sh(source(name) + "for i in $(seq 400); do echo " + name + " $i > file$i; done; head -c 4000000 /dev/urandom > blob\n")
	published := make(chan error, 1)
	go func() { // nobody can be on it in time: that is what the exit code says
		out, err := r.server.Run(within(r, stepTime), append([]string{"ebs-release", "publish", "/srv/source", "--no-snapshot", "--converge-deadline", "1s"}, followers()...)...)
		if err != nil && out.Code == 5 {
			err = nil
		}
		published <- err
	}()
	for ctx := within(r, stepTime); ; time.Sleep(5 * time.Millisecond) {
		must(r, ctx.Err())
		if now, err := os.ReadFile(pointer); err == nil && !bytes.Equal(now, before) {
			break
		}
	}
	time.Sleep(wait) // the point is a moment, not an event
	m.PowerCut()
	must(r, <-published)
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
