package bench

import (
	"slices"
	"strings"
	"sync"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
)

// watched is when the things came that a boot waits for.
type watched struct {
	lab  *lab.Lab
	host *host.Host

	mu                sync.Mutex
	available, device time.Time
}

// watch looks on until the benchmark ends, or the disk is there.
func (r *boots) watch(h *host.Host) *watched {
	w := &watched{lab: r.lab, host: h}
	ctx := within(r.B, 2*time.Minute)
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if w.look() {
				return
			}
		}
	}()
	return w
}

func (w *watched) look() (done bool) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.available.IsZero() {
		for _, v := range w.lab.Account.Volumes() {
			if v.Tags["ebs-release:instance"] == w.host.ID && v.State != "creating" {
				w.available = now
			}
		}
		return false
	}
	if len(w.host.Disks()) == 0 {
		return false
	}
	w.device = now
	return true
}

// calls are those of a service that the host made during a run; every service: "".
func (w *watched) calls(m measured, service string) (found []cloud.Call) {
	for _, c := range w.lab.Account.Calls() {
		if c.Principal == w.host.ID && (service == "" || c.Service == service) && !c.Start.Before(at(m.Start)) && c.Start.Before(at(m.End)) {
			found = append(found, c)
		}
	}
	return found
}

func (w *watched) names(m measured) string {
	var names []string
	for _, c := range w.calls(m, "ec2") {
		names = append(names, strings.TrimSpace(c.Action+" "+c.Code))
	}
	return strings.Join(names, ", ")
}

// waited is how long, of a run, the lab made the agent wait: a call was not answered yet, the
// volume was not available yet, the disk was not there yet. Times that overlap count once.
func (w *watched) waited(m measured) time.Duration {
	w.mu.Lock()
	available, device := w.available, w.device
	w.mu.Unlock()
	var spans []span
	for _, c := range w.calls(m, "") {
		end := c.Start.Add(c.Duration)
		spans = append(spans, span{c.Start, end})
		switch {
		case c.Code != "":
		case c.Action == "CreateVolume":
			spans = append(spans, span{end, available})
		case c.Action == "AttachVolume":
			spans = append(spans, span{end, device})
		}
	}
	return union(spans, at(m.Start))
}

type span struct{ from, to time.Time }

// union is how long, from a moment on, at least one of them was going on.
func union(spans []span, from time.Time) (sum time.Duration) {
	slices.SortFunc(spans, func(a, b span) int { return a.from.Compare(b.from) })
	for _, s := range spans {
		if s.from.Before(from) {
			s.from = from
		}
		if s.to.After(s.from) {
			sum += s.to.Sub(s.from)
			from = s.to
		}
	}
	return sum
}

// lags is how long after the volume was available, and after the disk was there, the agent called
// EC2 again: what its looks came too late.
func (w *watched) lags(m measured) (volume, disk time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	after := func(t time.Time) time.Duration {
		for _, c := range w.calls(m, "ec2") {
			if c.Action != "ModifyInstanceAttribute" && c.Start.Add(c.Duration).After(t) {
				return max(0, c.Start.Sub(t))
			}
		}
		return 0
	}
	return after(w.available), after(w.device)
}

func at(seconds float64) time.Time { return time.UnixMicro(int64(seconds * 1e6)) }
