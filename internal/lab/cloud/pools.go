package cloud

import (
	"strings"
	"time"
)

// Pool is the warm pool of a group (Auto Scaling User Guide, "Decrease latency for applications
// with long boot times using warm pools"). Its instances are Members in a state Warmed:….
type Pool struct {
	State    string // PoolState: Stopped, Running or Hibernated
	Min      int32  // MinSize
	Prepared int32  // MaxGroupPreparedCapacity; -1: the group's maximum
	Reuse    bool   // InstanceReusePolicy, ReuseOnScaleIn
	Deleting bool   // "PendingDelete" (WarmPoolConfiguration, Status)
}

// size is how many instances the pool shall have: "the difference between the Auto Scaling group's
// maximum capacity and its desired capacity", or "between the maximum prepared capacity and the
// desired capacity" (the page above, "Warm pool size"), and MinSize at least (PutWarmPool).
func (p Pool) size(g Group) int32 {
	if p.Deleting || g.Deleting {
		return 0
	}
	most := g.Max
	if p.Prepared >= 0 {
		most = p.Prepared
	}
	return max(most-g.Desired, p.Min, 0)
}

// warmed says whether a member is in the warm pool, or on its way in.
func (m Member) warmed() bool { return strings.HasPrefix(m.State, "Warmed:") }

// rests says whether a member is in the pool for good, and may be taken into service.
func (m Member) rests() bool {
	return m.State == "Warmed:Stopped" || m.State == "Warmed:Running" || m.State == "Warmed:Hibernated"
}

func putWarmPool(c *call) (any, error) {
	p := c.params
	name, state := p.need("AutoScalingGroupName"), p.str("PoolState")
	if state == "" {
		state = "Stopped" // "Default is Stopped" (PutWarmPool, PoolState)
	}
	if state != "Stopped" && state != "Running" && state != "Hibernated" {
		p.wrong(fail("ValidationError", "PoolState must be Stopped, Running or Hibernated"))
	}
	pool := Pool{State: state, Min: p.number("MinSize", 0, 0, 10000), Prepared: p.number("MaxGroupPreparedCapacity", -1, -1, 10000),
		Reuse: p.boolean("InstanceReusePolicy.ReuseOnScaleIn", false)}
	return c.onGroup(name, func(a *Account, g Group) (any, error) {
		// "Hibernate … must be enabled at launch" (EC2 User Guide, "Prerequisites for EC2 instance
		// hibernation").
		if spec, _, err := a.launchSpec(g); err != nil || state == "Hibernated" && !spec.Hibernation {
			return nil, fail("ValidationError", "The launch template of %s does not enable hibernation", name)
		}
		if g.Template.Mixed { // "You cannot add a warm pool to Auto Scaling groups that have a mixed instances policy" (Limitations)
			return nil, fail("ValidationError", "You can't add a warm pool to %s, which has a mixed instances policy.", name)
		}
		a.setGroup(name, func(g *Group) { g.Pool = &pool })
		return struct{}{}, nil
	})
}

func deleteWarmPool(c *call) (any, error) {
	name := c.params.need("AutoScalingGroupName")
	c.params.boolean("ForceDelete", false) // without it, too, the instances go first
	return c.onGroup(name, func(a *Account, g Group) (any, error) {
		if g.Pool == nil {
			return nil, fail("ValidationError", "No warm pool found for Auto Scaling group %s", name)
		}
		pool := *g.Pool
		pool.Deleting = true
		a.setGroup(name, func(g *Group) { g.Pool = &pool })
		return struct{}{}, nil
	})
}

type poolXML struct {
	MaxGroupPreparedCapacity int32 `xml:",omitempty"`
	MinSize                  int32
	PoolState                string
	Status                   string `xml:",omitempty"`
	InstanceReusePolicy      struct{ ReuseOnScaleIn bool }
}

func renderPool(g Group) *poolXML {
	if g.Pool == nil {
		return nil
	}
	x := &poolXML{MinSize: g.Pool.Min, PoolState: g.Pool.State}
	if g.Pool.Prepared >= 0 {
		x.MaxGroupPreparedCapacity = g.Pool.Prepared
	}
	if g.Pool.Deleting {
		x.Status = "PendingDelete"
	}
	x.InstanceReusePolicy.ReuseOnScaleIn = g.Pool.Reuse
	return x
}

func describeWarmPool(c *call) (any, error) {
	p := c.params
	name := p.need("AutoScalingGroupName")
	max, token := p.number("MaxRecords", 50, 1, 50), p.str("NextToken") // "the maximum value is 50"
	return c.ofGroup(name, func(a *Account, g Group) (any, error) {
		var list []entry[Member]
		for n, m := range g.Members {
			if m.warmed() {
				list = append(list, entry[Member]{n + 1, m})
			}
		}
		list, next, err := groupPage(list, max, token)
		if err != nil {
			return nil, err
		}
		out := struct {
			WarmPoolConfiguration *poolXML `xml:",omitempty"`
			Instances             members[memberXML]
			NextToken             string `xml:",omitempty"`
		}{WarmPoolConfiguration: renderPool(g), NextToken: next}
		for _, e := range list {
			out.Instances.Items = append(out.Instances.Items, a.renderMember(g, e.value))
		}
		return out, nil
	})
}

// stepPool keeps the size of a group's pool, and says whether it changed anything. mu is held.
func (a *Account) stepPool(g Group, s *scaler) (changed bool) {
	if g.Pool == nil {
		return false
	}
	var have int32
	for _, m := range g.Members {
		if m.warmed() && !m.leaving() {
			have++
		}
	}
	want := g.Pool.size(g)
	for ; have < want && a.addMember(g.Name, s, "Warmed:Pending"); have++ {
		changed = true
	}
	for _, m := range g.Members {
		if have > want && (m.rests() || want == 0 && m.warmed() && !m.leaving()) {
			a.setMember(g.Name, m.InstanceID, func(m *Member) { m.leave("Terminating") })
			have--
			changed = true
		}
	}
	if g.Pool.Deleting && have == 0 {
		a.setGroup(g.Name, func(g *Group) { g.Pool = nil })
	}
	return changed
}

// draw takes one instance of the pool into the group: "the Auto Scaling group can draw on the warm
// pool to meet its new desired capacity" (Core concepts). It is false when none rests there: then
// "instances will launch directly into the Auto Scaling group (a cold start)" (Limitations). mu is
// held.
func (a *Account) draw(name string) bool {
	g, _ := a.groups.get(name)
	for _, m := range g.Members {
		if !m.rests() {
			continue
		}
		i, _ := a.instances.get(m.InstanceID)
		if i.State != "stopped" && i.State != "running" { // somebody else is at it
			continue
		}
		_ = a.startInstance(m.InstanceID) // of a stopped one, or nothing is to be done
		a.setMember(name, m.InstanceID, func(m *Member) {
			m.enter("Pending")
			m.settled, m.returning, m.waitsAt = false, false, time.Time{}
		})
		return true
	}
	return false
}

// giveBack takes a member out of service, into the pool where the policy says so: "instances …
// returned to the warm pool on scale in" (PutWarmPool, InstanceReusePolicy). mu is held.
func (a *Account) giveBack(name, id string) {
	g, _ := a.groups.get(name)
	a.setMember(name, id, func(m *Member) {
		if g.Pool == nil || !g.Pool.Reuse || g.Pool.Deleting || m.State != "InService" {
			m.leave("Terminating")
			return
		}
		m.leave("Warmed:Pending")
		m.returning = true
	})
}

// stepWarmed moves a member of the pool on ("Use lifecycle hooks with a warm pool", "Lifecycle
// state transitions for instances in a warm pool"):
//
//	Warmed:Pending -> [Warmed:Pending:Wait ->] Warmed:Pending:Proceed ->
//	Warmed:Stopped, Warmed:Running or Warmed:Hibernated
//
// A new one waits for the launch hook. One that comes back waits for the hook of the termination:
// "the state of an instance changes to Warmed:Pending:Wait when it is returned to the warm pool …
// because of a lifecycle hook for scale-in events" ("Warm pool example events and patterns"). mu is
// held.
func (a *Account) stepWarmed(g Group, m Member, i Instance, hook func(launch bool) (Hook, bool)) (wake time.Time, change func(*Member)) {
	state := "Stopped"
	if g.Pool != nil {
		state = g.Pool.State
	}
	switch {
	case m.rests():
		if m.State == "Warmed:Running" && i.State != "running" || i.State == "shutting-down" || !m.Healthy {
			return wake, func(m *Member) { m.Healthy = false; m.leave("Terminating") }
		}
	case m.State == "Warmed:Terminating":
		if h, ok := hook(false); ok && i.State == "running" {
			return wake, func(m *Member) { m.wait(h, a.token(36)) }
		}
		a.terminate(m.InstanceID, reasonUser)
	case m.State == "Warmed:Terminating:Proceed":
		a.terminate(m.InstanceID, reasonUser)
	case m.State == "Warmed:Pending" && m.returning:
		if done, again := a.drainMember(g, m.InstanceID); !done {
			return again, nil
		}
		if h, ok := hook(false); ok {
			return wake, func(m *Member) { m.wait(h, a.token(36)) }
		}
		return wake, func(m *Member) { m.enter("Warmed:Pending:Proceed") }
	case m.State == "Warmed:Pending" && i.State == "running":
		h, ok := hook(true)
		switch {
		case !ok:
			return wake, func(m *Member) { m.enter("Warmed:Pending:Proceed") }
		case m.waitsAt.IsZero():
			return wake, func(m *Member) { m.waitsAt = time.Now().Add(a.sample(a.opts.Latency.Hook)) }
		case time.Now().Before(m.waitsAt):
			return m.waitsAt, nil
		}
		return wake, func(m *Member) { m.wait(h, a.token(36)) }
	case m.State == "Warmed:Pending:Proceed":
		switch {
		case state == "Running" && i.State == "running", state != "Running" && i.State == "stopped":
			return wake, func(m *Member) { m.enter("Warmed:" + state); m.settled, m.returning = false, false }
		case state == "Stopped" && i.State == "running":
			_ = a.stopInstance(m.InstanceID)
		case state == "Hibernated" && i.State == "running":
			_ = a.hibernateInstance(m.InstanceID)
		}
	}
	return wake, nil
}
