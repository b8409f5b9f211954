package cloud

import (
	"slices"
	"time"
)

// Refresh is an instance refresh of a group. The lab's replace one member at a time.
type Refresh struct {
	ID, Status string
	Start, End time.Time
	Bake       time.Duration
	RootImage  string      // strategy ReplaceRootVolume: the image of the new root volumes
	Desired    TemplateRef // what it launches from, and the group after it; without an ID: what the group does
	Old        []string    // instances that are still to be replaced
	Total      int         // of them at the start
	next       time.Time   // when it goes on from Pending, or has baked
}

// active: there is one at a time, in one of these states (StartInstanceRefresh, error
// InstanceRefreshInProgress; InstanceRefresh, Status).
func (r Refresh) active() bool {
	return slices.Contains([]string{"Pending", "InProgress", "Cancelling", "Baking"}, r.Status)
}

// activeRefresh finds the place of the refresh that is going on; -1: there is none.
func (g Group) activeRefresh() int {
	return slices.IndexFunc(g.Refreshes, Refresh.active)
}

func (a *Account) setRefresh(group string, at int, change func(*Refresh)) {
	a.setGroup(group, func(g *Group) {
		g.Refreshes = slices.Clone(g.Refreshes)
		change(&g.Refreshes[at])
	})
}

func startRefresh(c *call) (any, error) {
	p := c.params
	strategy := p.str("Strategy")
	// "You must start the instance refresh with a desired configuration having a mixed instances
	// policy containing ImageId overrides" ("Replace root volumes during instance refresh").
	image := p.str("DesiredConfiguration.MixedInstancesPolicy.LaunchTemplate.Overrides.member.1.ImageId")
	switch {
	case strategy != "" && strategy != "Rolling" && strategy != "ReplaceRootVolume":
		p.wrong(fail("ValidationError", "The lab knows the strategies Rolling and ReplaceRootVolume only"))
	case (strategy == "ReplaceRootVolume") != (image != ""):
		p.wrong(fail("ValidationError", "ReplaceRootVolume needs an ImageId in the overrides of a mixed instances policy"))
	}
	bake := p.number("Preferences.BakeTime", 0, 0, 172800)
	wanted := "DesiredConfiguration.LaunchTemplate."
	desired := TemplateRef{ID: p.str(wanted + "LaunchTemplateId"), Version: p.str(wanted + "Version")}
	return c.withRefresh(func(a *Account, g Group, at int) (string, error) {
		if at >= 0 {
			return "", fail("InstanceRefreshInProgress",
				"An Instance Refresh is already in progress and blocks the execution of this Instance Refresh.")
		}
		if image != "" && !g.Template.Mixed { // "Your Auto Scaling group must use a mixed instances policy" (the page above)
			return "", fail("ValidationError", "ReplaceRootVolume needs a group with a mixed instances policy")
		}
		now := time.Now()
		if t, ok := a.templates.get(desired.ID); desired.ID != "" {
			if _, there := t.version(desired.Version); !ok || !there {
				return "", fail("ValidationError", "You must use a valid fully-formed launch template. The specified launch template does not exist.")
			}
		}
		id := a.uuid()
		r := Refresh{Desired: desired, ID: id, Status: "Pending", Start: now, Bake: time.Duration(bake) * time.Second, RootImage: image,
			next: now.Add(a.sample(a.opts.Latency.Scaling))}
		for _, m := range g.Members {
			if m.counts() {
				r.Old = append(r.Old, m.InstanceID)
			}
		}
		for _, m := range g.Members {
			if m.rests() && image == "" { // "Then it replaces instances in the warm pool" ("Update the instances in a warm pool")
				r.Old = append(r.Old, m.InstanceID)
			}
		}
		r.Total = len(r.Old)
		a.setGroup(g.Name, func(g *Group) { g.Refreshes = append(slices.Clone(g.Refreshes), r) })
		return id, nil
	})
}

func cancelRefresh(c *call) (any, error) {
	return c.withRefresh(func(a *Account, g Group, at int) (string, error) {
		if at < 0 || g.Refreshes[at].Status == "Cancelling" {
			return "", fail("ActiveInstanceRefreshNotFound", "No in progress or pending Instance Refresh found for Auto Scaling group %s", g.Name)
		}
		// "any in-progress launches and terminations … complete" (CancelInstanceRefresh)
		a.setRefresh(g.Name, at, func(r *Refresh) { r.Status = "Cancelling" })
		return g.Refreshes[at].ID, nil
	})
}

// withRefresh does something with the active refresh of a group, at its place, and answers with its
// id.
func (c *call) withRefresh(do func(a *Account, g Group, at int) (id string, err error)) (any, error) {
	return c.onGroup(c.params.need("AutoScalingGroupName"), func(a *Account, g Group) (any, error) {
		id, err := do(a, g, g.activeRefresh())
		if err != nil {
			return nil, err
		}
		return struct{ InstanceRefreshId string }{id}, nil
	})
}

// stepRefresh moves the refresh of a group on, whose members are as many as wanted. It returns when
// to look again; zero: at the next change. mu is held.
func (a *Account) stepRefresh(g Group) time.Time {
	at := g.activeRefresh()
	if at < 0 {
		return time.Time{}
	}
	now, r := time.Now(), g.Refreshes[at]
	set := func(change func(*Refresh)) time.Time {
		a.setRefresh(g.Name, at, change)
		return now
	}
	settled := !slices.ContainsFunc(g.Members, func(m Member) bool {
		return m.State != "InService" && m.State != "Standby" && !m.rests()
	})
	switch {
	case r.Status == "Pending" && now.Before(r.next), r.Status == "Baking" && now.Before(r.next):
		return r.next
	case r.Status == "Pending":
		return set(func(r *Refresh) { r.Status = "InProgress" })
	case !settled:
		return time.Time{}
	case r.Status == "Cancelling":
		return set(func(r *Refresh) { r.Status, r.End = "Cancelled", now })
	case r.Status == "Baking":
		if r.Desired.ID != "" { // "When the instance refresh succeeds, the group is updated" (DesiredConfiguration)
			a.setGroup(g.Name, func(g *Group) { g.Template = r.Desired })
		}
		return set(func(r *Refresh) { r.Status, r.End = "Successful", now })
	case len(r.Old) == 0:
		return set(func(r *Refresh) { r.Status, r.next = "Baking", now.Add(r.Bake) })
	}
	old := r.Old[0]
	if !slices.ContainsFunc(g.Members, func(m Member) bool { return m.InstanceID == old }) { // and its successor is in service
		return set(func(r *Refresh) { r.Old = r.Old[1:] })
	}
	if r.RootImage != "" {
		a.replaceRoot(g.Name, old, r.RootImage)
		return set(func(r *Refresh) { r.Old = r.Old[1:] })
	}
	a.setMember(g.Name, old, func(m *Member) { m.leave("Terminating") })
	return now
}

type refreshXML struct {
	AutoScalingGroupName, InstanceRefreshId, Status, StartTime, Strategy string
	EndTime                                                              string `xml:",omitempty"`
	InstancesToUpdate, PercentageComplete                                int
	DesiredConfiguration                                                 *desiredXML
}

type desiredXML struct{ LaunchTemplate templateXML }

func describeRefreshes(c *call) (any, error) {
	p := c.params
	name, ids := p.need("AutoScalingGroupName"), p.list("InstanceRefreshIds.member")
	max, token := p.number("MaxRecords", 50, 1, 100), p.str("NextToken") // "the default value is 50 and the maximum value is 100"
	return c.ofGroup(name, func(a *Account, g Group) (any, error) {
		var list []entry[Refresh]
		for n, r := range slices.Backward(g.Refreshes) { // "sorted by creation timestamp in descending order"
			if len(ids) == 0 || slices.Contains(ids, r.ID) {
				list = append(list, entry[Refresh]{len(g.Refreshes) - n, r})
			}
		}
		list, next, err := groupPage(list, max, token)
		if err != nil {
			return nil, err
		}
		out := struct {
			InstanceRefreshes members[refreshXML]
			NextToken         string `xml:",omitempty"`
		}{NextToken: next}
		for _, e := range list {
			x := renderRefresh(name, e.value)
			if d := e.value.Desired; d.ID != "" {
				t, _ := a.templates.get(d.ID)
				x.DesiredConfiguration = &desiredXML{templateXML{d.ID, t.Name, d.Version}}
			}
			out.InstanceRefreshes.Items = append(out.InstanceRefreshes.Items, x)
		}
		return out, nil
	})
}

func renderRefresh(group string, r Refresh) refreshXML {
	x := refreshXML{AutoScalingGroupName: group, InstanceRefreshId: r.ID, Status: r.Status, StartTime: wireTime(r.Start), Strategy: "Rolling",
		InstancesToUpdate: len(r.Old), PercentageComplete: 100}
	if r.RootImage != "" {
		x.Strategy = "ReplaceRootVolume"
	}
	if r.Total > 0 {
		x.PercentageComplete = 100 * (r.Total - len(r.Old)) / r.Total
	}
	if !r.End.IsZero() {
		x.EndTime = wireTime(r.End)
	}
	return x
}
