package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
)

// published30 is how many generations the soak publishes.
const published30 = 30

// TestSoakOfPublishesUnderScaling publishes 30 times while the group's capacity changes all the
// time, with an EC2 whose reads are often old. At the end of each publish no member is stale: all
// that it counts are on the generation, and so says each machine itself. In the end there is one
// volume per instance, and no other. On a machine that is busy with other tests it takes minutes: a
// boot, and P5, which waits for a moment without one, have the time for that.
func TestSoakOfPublishesUnderScaling(t *testing.T) {
	const most = 5
	r := published(t, func(o *lab.Options) {
		o.Latency.Lag = cloud.Lag{Chance: 0.2, Max: 300 * time.Millisecond}
		o.PublisherSettings["settle"] = "350ms" // above the lag: two listings that far apart see what is there
		o.PublisherSettings["keep"] = "3"
		o.PublisherSettings["converge-deadline"] = "2m"
		o.AgentSettings["deadline"] = "2m"
	})
	r.scale(2)
	scaling := r.scaleAround(1, most, 700*time.Millisecond)
	started := time.Now()
	launched, gone := 0, 0
	for n := range published30 {
		version := fmt.Sprintf("soak %d", n)
		r.sh("echo '" + version + "' > /srv/source/version")
		o := r.publishJSON("/srv/source")
		launched, gone = launched+o.Launched, gone+o.Gone
		if o.Result != "converged" || o.OnIt != o.Total || o.Generation != int64(n+2) {
			t.Fatalf("publish %d: %+v", n, o)
		}
		r.noneStale(o.Generation, version)
	}
	scaling()
	hosts := r.scale(3)
	r.noneStale(published30+1, fmt.Sprintf("soak %d", published30-1))
	r.noneOrphaned(len(hosts))
	if launched == 0 || gone == 0 {
		t.Errorf("%d members launched and %d left during the publishes: that was no scaling", launched, gone)
	}
	t.Logf("%d publishes in %v, %d members launched and %d left meanwhile", published30, time.Since(started).Round(time.Millisecond), launched, gone)
}

// scaleAround changes the desired capacity every so often, until the function that it returns
// is called.
func (r *rig) scaleAround(least, most int, every time.Duration) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	rng := rand.New(rand.NewPCG(4, 2))
	go func() { // ends with quit
		defer close(done)
		clock := time.NewTicker(every)
		defer clock.Stop()
		for {
			select {
			case <-quit:
				return
			case <-clock.C:
				if err := r.lab.Account.SetDesired("web", int32(least+rng.IntN(most-least+1))); err != nil {
					r.Error(err)
					return
				}
			}
		}
	}()
	return func() { close(quit); <-done }
}

// published is what `publish --output json` says.
type publishReport struct {
	Result       string
	Error        string
	Generation   int64
	OnIt         int `json:"on_it"`
	Total, Gone  int
	Launched     int
	LaunchedOnIt int `json:"launched_on_it"`
	Committed    bool
	Milliseconds int64
	Mixed        *struct{ Members, Milliseconds int64 }
	Fetched      struct{ Packs, Bytes int64 }
	HookError    string `json:"hook_error"`
	Members      []publishedMember
}

type publishedMember struct {
	InstanceID                   string `json:"instance_id"`
	Standing, Error, Cause, Hook string
	Generation                   int64
}

func (r *rig) publishJSON(args ...string) (report publishReport) {
	r.Helper()
	out, _ := r.server.Run(within(r, 4*time.Minute), append([]string{"ebs-release", "publish", "--output", "json"}, args...)...)
	if err := json.Unmarshal([]byte(out.Stdout), &report); err != nil {
		r.Fatalf("publish: exit %d, %v\n%s%s", out.Code, err, out.Stdout, out.Stderr)
	}
	if out.Code != 0 {
		r.Log(out.Stderr)
		for _, c := range r.lab.Account.CallsBy(r.server.ID) {
			if c.Duration > time.Second || c.Status == 0 {
				r.Logf("slow or unanswered: %+v", c)
			}
		}
	}
	return report
}

// noneStale looks at the machines themselves: whatever of them serves a release serves this one. A
// machine that has begun to end, before or while this looks at it, is no member any more.
func (r *rig) noneStale(generation int64, version string) {
	r.Helper()
	for _, h := range r.lab.Hosts() {
		if !r.stays(h) {
			continue
		}
		out, err := h.Run(within(r, time.Minute), "sh", "-c", "test -e /run/app.started || exit 0; cat /release/current/version /release/.ebs-release/generation")
		want := fmt.Sprintf("%s\n%d ", version, generation)
		if wrong := err != nil || out.Stdout != "" && !strings.HasPrefix(out.Stdout, want); wrong && r.stays(h) {
			r.Errorf("%s serves %q, want %q (%v)", h.ID, out.Stdout, want, err)
		}
	}
}

// stays says that a machine runs, and is a member that has not begun to end.
func (r *rig) stays(h *host.Host) bool {
	return h.On() && slices.ContainsFunc(r.lab.Members("web"), func(m cloud.Member) bool {
		return m.InstanceID == h.ID && !strings.HasPrefix(m.State, "Terminat")
	})
}

// noneOrphaned waits until there is one volume per member, and none of an instance that is gone. An
// instance may end between CreateVolume and AttachVolume: nobody but gc can know that volume, once
// EC2 has told it that the instance is gone, which may be an old answer.
func (r *rig) noneOrphaned(members int) {
	r.Helper()
	var volumes []string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		r.ok("gc", "--grace", "1ms")
		err := r.lab.Account.Wait(within(r, 2*time.Second), func() (all bool) { volumes, all = r.memberVolumes(); return all && len(volumes) == members })
		if err == nil {
			return
		}
	}
	r.Errorf("%d volumes for %d members: %q", len(volumes), members, volumes)
}

// memberVolumes are those of members; owned: each has its instance.
func (r *rig) memberVolumes() (volumes []string, owned bool) {
	alive := map[string]bool{}
	for _, i := range r.lab.Account.Instances() {
		alive[i.ID] = i.State != "terminated" && i.State != "shutting-down"
	}
	owned = true
	for _, v := range r.lab.Account.Volumes() {
		if v.Tags["ebs-release:role"] != "member" || v.State == "deleted" || v.State == "deleting" {
			continue
		}
		volumes = append(volumes, fmt.Sprintf("%s %s of %s", v.ID, v.State, v.Tags["ebs-release:instance"]))
		owned = owned && alive[v.Tags["ebs-release:instance"]]
	}
	return volumes, owned
}
