package cloud

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"
)

// The lifecycle of a member (Auto Scaling User Guide, "Amazon EC2 Auto Scaling instance
// lifecycle"):
//
//	Pending -> [Pending:Wait -> Pending:Proceed ->] InService ->
//	Terminating -> [Terminating:Wait -> Terminating:Proceed ->] Terminated
//
// Beside it: InService -> EnteringStandby -> Standby -> Pending -> InService; a warm pool
// (pools.go); and a new root volume (roots.go).

// leaving says whether a member is on its way out.
func (m Member) leaving() bool { return strings.Contains(m.State, "Terminating") }

// counts says whether a member counts for the capacity.
func (m Member) counts() bool {
	return !m.leaving() && !m.warmed() && !strings.HasSuffix(m.State, "Standby")
}

// enter moves a member to a state.
func (m *Member) enter(state string) { m.State, m.Since = state, time.Now() }

// leave begins a member's way out.
func (m *Member) leave(state string) {
	if m.leaving() {
		return
	}
	if m.warmed() {
		state = "Warmed:Terminating"
	}
	m.enter(state)
	m.Hook, m.HookToken, m.Deadline, m.settled = "", "", time.Time{}, false
}

// wait makes a member wait for a hook.
func (m *Member) wait(h Hook, token string) {
	now := time.Now()
	m.enter(m.State + ":Wait")
	m.Hook, m.HookToken, m.HookStart, m.Deadline = h.Name, token, now, now.Add(h.Timeout)
}

// proceed ends the wait for a hook. An abandoned launch is terminated; a termination goes on either
// way ("Both ABANDON and CONTINUE let the instance terminate", "How lifecycle hooks work").
func (m *Member) proceed(abandon bool) {
	launching := strings.HasSuffix(m.State, "Pending:Wait") && !m.returning
	m.Hook, m.HookToken, m.Deadline = "", "", time.Time{}
	if launching && abandon {
		m.leave("Terminating")
		return
	}
	m.settled = true
	m.enter(strings.TrimSuffix(m.State, ":Wait") + ":Proceed")
}

// scale keeps the capacity of a group until the group is gone.
func (a *Account) scale(ctx context.Context, name string) {
	var s scaler
	for {
		a.mu.Lock()
		g, ok := a.groups.get(name)
		if ok && g.Deleting && len(g.Members) == 0 {
			a.groups.drop(name)
			a.notify()
			ok = false
		}
		if !ok {
			a.mu.Unlock()
			return
		}
		wake := a.step(name, &s)
		changed := a.changed
		a.mu.Unlock()
		if !waitUntil(ctx, wake, changed) {
			return
		}
	}
}

// waitUntil waits for a moment (never, when it is zero) or for a change. It is false when ctx has
// ended.
func waitUntil(ctx context.Context, wake time.Time, changed <-chan struct{}) bool {
	var timer <-chan time.Time
	if !wake.IsZero() {
		t := time.NewTimer(time.Until(wake))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-timer:
	case <-changed:
	case <-ctx.Done():
		return false
	}
	return true
}

// scaler is what a group's keeper remembers from one look to the next.
type scaler struct {
	actAt    time.Time // when to act on a difference in capacity; zero when there is none
	failures int       // launches that failed in a row
}

// step moves each member on, then the number of members. It returns when to look again; zero: at
// the next change. mu is held.
func (a *Account) step(name string, s *scaler) time.Time {
	var wake time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (wake.IsZero() || t.Before(wake)) {
			wake = t
		}
	}
	g, _ := a.groups.get(name)
	for _, m := range g.Members {
		sooner(a.stepMember(g, m, s))
	}
	g, _ = a.groups.get(name)
	var active int32
	for _, m := range g.Members {
		if m.counts() {
			active++
		}
	}
	if active == g.Desired {
		s.actAt = time.Time{}
		if a.stepPool(g, s) {
			return time.Now() // members have just changed: look again
		}
		sooner(a.stepRefresh(g))
		return wake
	}
	now := time.Now()
	if s.actAt.IsZero() {
		s.actAt = now.Add(a.sample(a.opts.Latency.Scaling))
		if s.failures > 0 { // launches that fail are tried again, more and more slowly
			s.actAt = s.actAt.Add(min(time.Minute, time.Second<<min(s.failures, 6)))
		}
	}
	if now.Before(s.actAt) {
		sooner(s.actAt)
		return wake
	}
	s.actAt = time.Time{}
	for ; active < g.Desired; active++ {
		if !a.draw(name) {
			a.addMember(name, s, "Pending")
		}
	}
	for ; active > g.Desired; active-- {
		g, _ = a.groups.get(name)
		a.giveBack(name, victim(g))
	}
	return now // members have just changed: look again
}

// stepMember moves one member on. mu is held.
func (a *Account) stepMember(g Group, m Member, s *scaler) (wake time.Time) {
	i, _ := a.instances.get(m.InstanceID)
	if (i.Reason == reasonInternal || i.Reason == reasonLaunch) && !m.leaving() {
		s.failures++
	}
	if i.State == "terminated" {
		a.setGroup(g.Name, func(g *Group) {
			g.Members = slices.DeleteFunc(g.Members, func(o Member) bool { return o.InstanceID == m.InstanceID })
		})
		return time.Now() // look again: a group that is being deleted may be empty now
	}
	set := func(change func(*Member)) {
		a.setMember(g.Name, m.InstanceID, change)
		wake = time.Now() // look again
	}
	hook := func(launch bool) (Hook, bool) {
		at := slices.IndexFunc(g.Hooks, func(h Hook) bool { return h.Launch == launch })
		if at < 0 || m.settled {
			return Hook{}, false
		}
		return g.Hooks[at], true
	}
	if m.warmed() && m.Hook == "" {
		again, change := a.stepWarmed(g, m, i, hook)
		if wake = again; change != nil {
			set(change)
		}
		return wake
	}
	switch {
	case m.counts() && i.State != "pending" && i.State != "running":
		// "EC2 status checks: … if the instance is in any state other than running, it is
		// considered unhealthy" and replaced ("Health checks").
		set(func(m *Member) { m.Healthy = false; m.leave("Terminating") })
	case m.State == "Pending" && i.State == "running":
		s.failures = 0
		switch h, ok := hook(true); {
		case !ok:
			a.registerMember(g, m.InstanceID)
			set(func(m *Member) { m.enter("InService"); m.settled = false })
		case m.waitsAt.IsZero():
			set(func(m *Member) { m.waitsAt = time.Now().Add(a.sample(a.opts.Latency.Hook)) })
		case time.Now().Before(m.waitsAt):
			return m.waitsAt
		default:
			set(func(m *Member) { m.wait(h, a.token(36)) })
		}
	case m.State == "Pending:Proceed":
		a.registerMember(g, m.InstanceID)
		set(func(m *Member) { m.enter("InService"); m.settled = false })
	case m.State == "RootVolumeReplaced":
		set(func(m *Member) { m.enter("InService") })
	case m.State == "InService":
		return a.stepHealth(g, m)
	case m.State == "EnteringStandby":
		if done, again := a.drainMember(g, m.InstanceID); !done {
			return again
		}
		set(func(m *Member) { m.enter("Standby") })
	case m.State == "Terminating":
		if done, again := a.drainMember(g, m.InstanceID); !done {
			return again
		}
		if h, ok := hook(false); ok && (i.State == "pending" || i.State == "running") {
			set(func(m *Member) { m.wait(h, a.token(36)) })
		} else {
			a.terminate(m.InstanceID, reasonUser)
		}
	case m.State == "Terminating:Proceed":
		a.terminate(m.InstanceID, reasonUser)
	case m.Hook != "":
		if time.Now().Before(m.Deadline) {
			return m.Deadline
		}
		at := slices.IndexFunc(g.Hooks, func(h Hook) bool { return h.Name == m.Hook })
		set(func(m *Member) { m.proceed(g.Hooks[at].Abandon) })
	}
	return wake
}

// addMember launches an instance in the zone with the fewest members ("Availability Zone
// distribution: balanced best effort"). mu is held.
func (a *Account) addMember(name string, s *scaler, state string) (ok bool) {
	g, _ := a.groups.get(name)
	count := zoneCounts(g)
	zone := slices.MinFunc(g.Zones, func(x, y string) int { return count[x] - count[y] })
	spec, version, err := a.launchSpec(g)
	if err != nil {
		s.failures++
		a.log.Error("launch for a group failed", "group", name, "error", err)
		return false
	}
	spec.Zone, spec.group = zone, name
	spec.Tags = maps.Clone(spec.Tags) // those of a group go to instances only, not to their volumes
	if spec.Tags == nil {
		spec.Tags = map[string]string{}
	}
	maps.Copy(spec.Tags, g.Tags)
	spec.Tags["aws:autoscaling:groupName"] = name // Auto Scaling User Guide, "Tag Auto Scaling groups and instances"
	i, err := a.launch(spec, a.newID("r-"))
	if err != nil {
		s.failures++
		a.log.Error("launch for a group failed", "group", name, "error", err)
		return false
	}
	a.setGroup(name, func(g *Group) {
		g.Members = append(g.Members, Member{
			InstanceID: i.ID, Zone: zone, Type: i.Type, State: state, Healthy: true, Since: time.Now(), template: version,
		})
	})
	return true
}

func zoneCounts(g Group) map[string]int {
	count := map[string]int{}
	for _, m := range g.Members {
		if m.counts() {
			count[m.Zone]++
		}
	}
	return count
}

// victim chooses whom a scale-in ends: "the default termination policy … selects the Availability
// Zone with the most instances", then, with one launch template only, it comes down to the billing
// hour; the lab takes the oldest.
func victim(g Group) string {
	count := zoneCounts(g)
	best := -1
	for n, m := range g.Members { // in order of launch
		if m.counts() && (best < 0 || count[m.Zone] > count[g.Members[best].Zone]) {
			best = n
		}
	}
	return g.Members[best].InstanceID
}
