package cloud

import (
	"slices"
	"time"
)

// onGroup does something with the group of a name, if the call may. mu is held meanwhile.
func (c *call) onGroup(name string, do func(a *Account, g Group) (any, error)) (any, error) {
	a := c.account
	if err := c.params.end(); err != nil {
		return nil, validation(err)
	}
	if err := c.authorize(c.groupTarget(name)); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	g, ok := a.groups.get(name)
	if !ok {
		return nil, noGroup(name)
	}
	return do(a, g)
}

// onMember does something with an instance and its group, if the call may. mu is held meanwhile.
func (c *call) onMember(id string, do func(a *Account, g Group, m Member) (any, error)) (any, error) {
	a := c.account
	if err := c.params.end(); err != nil {
		return nil, validation(err)
	}
	a.mu.Lock()
	g, m, ok := a.memberOf(id)
	a.mu.Unlock()
	if err := c.authorize(c.groupTarget(g.Name)); err != nil {
		return nil, err
	}
	if !ok {
		return nil, fail("ValidationError", "Instance Id not found - No managed instance found for instance ID: %s", id)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return do(a, g, m)
}

func updateGroup(c *call) (any, error) {
	p := c.params
	name := p.need("AutoScalingGroupName")
	low, high, desired := p.number("MinSize", -1, 0, 10000), p.number("MaxSize", -1, 0, 10000), p.number("DesiredCapacity", -1, 0, 10000)
	return c.onGroup(name, func(a *Account, g Group) (any, error) {
		if low >= 0 {
			g.Min = low
		}
		if high >= 0 {
			g.Max = high
		}
		// "If a new value for MinSize is specified without setting a value for DesiredCapacity, and
		// the new MinSize is larger than the current size of the group, this sets the group's
		// DesiredCapacity to the new MinSize value" (UpdateAutoScalingGroup), and so for MaxSize.
		if desired < 0 {
			desired = min(max(g.Desired, g.Min), g.Max)
		}
		if g.Min > g.Max || desired < g.Min || desired > g.Max {
			return nil, fail("ValidationError",
				"Desired capacity:%d must be between the specified min size:%d and max size:%d", desired, g.Min, g.Max)
		}
		a.setGroup(name, func(now *Group) { now.Min, now.Max, now.Desired = g.Min, g.Max, desired })
		return nil, nil
	})
}

func setDesiredCapacity(c *call) (any, error) {
	p := c.params
	name, n := p.need("AutoScalingGroupName"), p.number("DesiredCapacity", 0, 0, 10000)
	p.need("DesiredCapacity")
	p.boolean("HonorCooldown", false) // the lab's groups have no cooldown
	if err := p.end(); err != nil {
		return nil, validation(err)
	}
	if err := c.authorize(c.groupTarget(name)); err != nil {
		return nil, err
	}
	return nil, c.account.SetDesired(name, n)
}

func deleteGroup(c *call) (any, error) {
	p := c.params
	name, force := p.need("AutoScalingGroupName"), p.boolean("ForceDelete", false)
	return c.onGroup(name, func(a *Account, g Group) (any, error) {
		if len(g.Members) > 0 && !force { // error ResourceInUse of DeleteAutoScalingGroup
			return nil, fail("ResourceInUse",
				"You cannot delete an AutoScalingGroup while there are instances or pending Spot instance request(s) still in the group.")
		}
		a.setGroup(name, func(g *Group) { g.Deleting, g.Min, g.Desired = true, 0, 0 })
		return nil, nil
	})
}

func terminateMember(c *call) (any, error) {
	p := c.params
	id, decrement := p.needID("InstanceId", "instance"), p.boolean("ShouldDecrementDesiredCapacity", false)
	p.need("ShouldDecrementDesiredCapacity")
	return c.onMember(id, func(a *Account, g Group, _ Member) (any, error) {
		if decrement && g.Desired-1 < g.Min {
			return nil, fail("ValidationError",
				"Currently, desiredSize equals minSize (%d). Terminating instance without replacement will violate group's min size constraint.", g.Min)
		}
		if decrement {
			a.setGroup(g.Name, func(g *Group) { g.Desired-- })
		}
		a.setMember(g.Name, id, func(m *Member) { m.leave("Terminating") })
		return struct{ Activity activityXML }{
			a.activity(g.Name, "an instance was taken out of service in response to a user request", "Terminating EC2 instance: "+id),
		}, nil
	})
}

// activityXML is what Auto Scaling says that it does.
type activityXML struct {
	ActivityId, AutoScalingGroupName, Cause, Description, StatusCode, StartTime string
	Progress                                                                    int
}

// activity is one that has begun. mu is held.
func (a *Account) activity(group, cause, description string) activityXML {
	return activityXML{
		ActivityId: a.newID(""), AutoScalingGroupName: group, Cause: cause, Description: description,
		StatusCode: "InProgress", StartTime: wireTime(time.Now()),
	}
}

// memberOf finds the group of an instance. mu is held.
func (a *Account) memberOf(id string) (Group, Member, bool) {
	for _, e := range a.groups.list(time.Now()) {
		for _, m := range e.value.Members {
			if m.InstanceID == id {
				return e.value, m, true
			}
		}
	}
	return Group{}, Member{}, false
}

func completeLifecycleAction(c *call) (any, error) {
	result := c.params.need("LifecycleActionResult")
	if result != "CONTINUE" && result != "ABANDON" && result != "" {
		c.params.wrong(fail("ValidationError", "The lifecycle action result must be CONTINUE or ABANDON"))
	}
	return c.lifecycle(func(a *Account, group string, m Member, _ Hook) {
		a.setMember(group, m.InstanceID, func(m *Member) { m.proceed(result == "ABANDON") })
	})
}

func recordHeartbeat(c *call) (any, error) {
	return c.lifecycle(func(a *Account, group string, m Member, h Hook) {
		a.setMember(group, m.InstanceID, func(m *Member) {
			m.Deadline = time.Now().Add(h.Timeout)
			if limit := m.HookStart.Add(hookLimit(h.Timeout)); m.Deadline.After(limit) {
				m.Deadline = limit
			}
		})
	})
}

// lifecycle finds the waiting member that a call is about, by instance or by token.
func (c *call) lifecycle(act func(a *Account, group string, m Member, h Hook)) (any, error) {
	p := c.params
	name, hook, id, token := p.need("AutoScalingGroupName"), p.need("LifecycleHookName"), p.str("InstanceId"), p.str("LifecycleActionToken")
	return c.onGroup(name, func(a *Account, g Group) (any, error) {
		for _, m := range g.Members {
			if m.Hook == hook && (m.InstanceID == id || token != "" && m.HookToken == token) {
				h := g.Hooks[slices.IndexFunc(g.Hooks, func(h Hook) bool { return h.Name == hook })]
				act(a, name, m, h)
				return struct{}{}, nil
			}
		}
		return nil, fail("ValidationError", "No active Lifecycle Action found with instance ID %s", id)
	})
}
