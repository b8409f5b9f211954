package cloud

import (
	"slices"
	"time"
)

// What Auto Scaling does with the target groups of a group, and with members that are not healthy
// (Auto Scaling User Guide, "Use Elastic Load Balancing to distribute traffic", "Health checks").

// all are the ARNs of a group's target groups, however they were attached. AttachTrafficSources is
// the newer call, and both may be used on one group (its API reference). That the older call's show
// as TrafficSources, too, and not the other way round, is the lab's: AWS does not say.
func (t Traffic) all() []string { return slices.Concat(t.TargetGroups, t.Sources) }

// AttachTrafficSource attaches a target group to a group, and registers the members in service
// ("Adding - The Auto Scaling instances are being registered", TrafficSourceState).
func (a *Account) AttachTrafficSource(group, arn string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.targetGroups.get(arn); !ok {
		return noTargetGroup(arn)
	}
	if _, ok := a.groups.get(group); !ok {
		return noGroup(group)
	}
	a.setGroup(group, func(g *Group) { g.Sources = append(slices.Clone(g.Sources), arn) })
	g, _ := a.groups.get(group)
	for _, m := range g.Members {
		if m.State == "InService" {
			a.registerMember(g, m.InstanceID)
		}
	}
	return nil
}

// registerMember: "before the instance reaches the InService state … the instance is registered
// with the load balancer" ("How lifecycle hooks work"). mu is held.
func (a *Account) registerMember(g Group, instanceID string) {
	for _, arn := range g.all() {
		if err := a.register(arn, instanceID); err != nil {
			a.log.Error("register a member", "group", g.Name, "instance", instanceID, "error", err)
		}
	}
}

// drainMember takes a member out of the target groups, and says when that is done, or when to look
// again: "the terminating instance is first deregistered … and waits for existing connections to
// complete", before any lifecycle hook ("How lifecycle hooks work"). mu is held.
func (a *Account) drainMember(g Group, instanceID string) (done bool, again time.Time) {
	done = true
	for _, arn := range g.all() {
		a.deregister(arn, instanceID)
		group, _ := a.targetGroups.get(arn)
		t, ok := group.target(instanceID)
		if !ok {
			continue
		}
		if drained, at := a.drained(arn, t); !drained {
			if done || at.Before(again) {
				again = at
			}
			done = false
		}
	}
	return done, again
}

// stepHealth finds out that a member in service is unhealthy, and replaces it after a while. mu is
// held.
func (a *Account) stepHealth(g Group, m Member) (wake time.Time) {
	now := time.Now()
	if m.Healthy && g.ELBHealth {
		// "The health check grace period … starts when an instance enters the InService state."
		if left := m.Since.Add(g.Grace).Sub(now); left > 0 {
			return now.Add(left)
		}
		if a.failsInELB(g, m.InstanceID) {
			a.markUnhealthy(g.Name, m.InstanceID)
			return now
		}
	}
	if m.Healthy {
		return time.Time{}
	}
	if now.Before(m.replaceAt) {
		return m.replaceAt
	}
	a.setMember(g.Name, m.InstanceID, func(m *Member) { m.leave("Terminating") })
	return now
}

// failsInELB says whether Elastic Load Balancing has a member for unhealthy. A target group counts
// once a target of it passed: "If no registered instances pass the health checks … Amazon EC2 Auto
// Scaling doesn't terminate and replace the instances" ("Attachment status of your load balancer").
// One that somebody has deregistered counts as unhealthy here; AWS does not say. mu is held.
func (a *Account) failsInELB(g Group, instanceID string) bool {
	return slices.ContainsFunc(g.all(), func(arn string) bool {
		group, _ := a.targetGroups.get(arn)
		t, ok := group.target(instanceID)
		return group.worked && (!ok || t.State != targetHealthy && t.State != targetInitial)
	})
}

// markUnhealthy makes a member Unhealthy, which shows until Auto Scaling acts on it. mu is held.
func (a *Account) markUnhealthy(group, instanceID string) {
	at := time.Now().Add(a.sample(a.opts.Latency.Replace))
	a.setMember(group, instanceID, func(m *Member) { m.Healthy, m.replaceAt = false, at })
}

func setInstanceHealth(c *call) (any, error) {
	p := c.params
	id, status, respect := p.needID("InstanceId", "instance"), p.need("HealthStatus"), p.boolean("ShouldRespectGracePeriod", true)
	if status != "Healthy" && status != "Unhealthy" && status != "" {
		p.wrong(fail("ValidationError", "Valid instance health states are: [Healthy, Unhealthy].")) // its API reference: these two
	}
	return c.onMember(id, func(a *Account, g Group, m Member) (any, error) {
		switch {
		case status == "Healthy":
			a.setMember(g.Name, id, func(m *Member) { m.Healthy = true })
		case respect && time.Since(m.Since) < g.Grace: // "the call respects the grace period" by default
		default:
			a.markUnhealthy(g.Name, id)
		}
		return nil, nil
	})
}

type sourceXML struct {
	Identifier string
	State      string `xml:",omitempty"` // only in DescribeTrafficSources
	Type       string
}

func describeTrafficSources(c *call) (any, error) {
	p := c.params
	name, kind := p.need("AutoScalingGroupName"), p.str("TrafficSourceType")
	max, token := p.number("MaxRecords", 50, 1, 50), p.str("NextToken") // "the maximum value is 50"
	return c.ofGroup(name, func(a *Account, g Group) (any, error) {
		var list []entry[sourceXML]
		for n, arn := range g.all() {
			if kind == "" || kind == "elbv2" {
				list = append(list, entry[sourceXML]{n + 1, sourceXML{arn, a.sourceState(arn), "elbv2"}})
			}
		}
		list, next, err := groupPage(list, max, token)
		if err != nil {
			return nil, err
		}
		out := struct {
			TrafficSources members[sourceXML]
			NextToken      string `xml:",omitempty"`
		}{NextToken: next}
		for _, e := range list {
			out.TrafficSources.Items = append(out.TrafficSources.Items, e.value)
		}
		return out, nil
	})
}

// sourceState: Added once all are registered, "InService - … at least one Auto Scaling instance
// passed an ELB health check" (TrafficSourceState). mu is held.
func (a *Account) sourceState(arn string) string {
	if g, _ := a.targetGroups.get(arn); g.worked {
		return "InService"
	}
	return "Added"
}
