package cloud

import "time"

// Standby (Auto Scaling User Guide, "Temporarily remove instances from your Auto Scaling group"):
// the instance stays in the group, gets no traffic, and its health is not looked at.

func enterStandby(c *call) (any, error) {
	decrement := c.params.boolean("ShouldDecrementDesiredCapacity", false)
	c.params.need("ShouldDecrementDesiredCapacity")
	return c.standby("InService", func(a *Account, g Group, ids []string) error {
		if decrement && g.Desired-int32(len(ids)) < g.Min {
			return fail("ValidationError", "AutoScalingGroup %s has min-size=%d, max-size=%d, and desired-size=%d. "+
				"To place into standby %d instances, please update the AutoScalingGroup sizes appropriately.",
				g.Name, g.Min, g.Max, g.Desired, len(ids))
		}
		for _, id := range ids {
			a.setMember(g.Name, id, func(m *Member) { m.enter("EnteringStandby") })
		}
		if decrement {
			a.setGroup(g.Name, func(g *Group) { g.Desired -= int32(len(ids)) })
		}
		return nil
	})
}

func exitStandby(c *call) (any, error) {
	return c.standby("Standby", func(a *Account, g Group, ids []string) error {
		if g.Desired+int32(len(ids)) > g.Max {
			return fail("ValidationError", "AutoScalingGroup %s has max-size=%d. To exit standby, please update it.", g.Name, g.Max)
		}
		for _, id := range ids {
			// "the instance enters the Pending state", and no launch: its hooks have been.
			a.setMember(g.Name, id, func(m *Member) { m.enter("Pending"); m.settled = true })
		}
		a.setGroup(g.Name, func(g *Group) { g.Desired += int32(len(ids)) }) // "it increments the desired capacity"
		return nil
	})
}

// standby finds members in a state, and moves them.
func (c *call) standby(from string, move func(a *Account, g Group, ids []string) error) (any, error) {
	p, a := c.params, c.account
	name, ids := p.need("AutoScalingGroupName"), p.list("InstanceIds.member")
	if err := p.end(); err != nil {
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
	for _, id := range ids {
		if of, m, _ := a.memberOf(id); of.Name != name || m.State != from {
			return nil, fail("ValidationError", "The instance %s is not in %s.", id, from)
		}
	}
	if err := move(a, g, ids); err != nil {
		return nil, err
	}
	type activity struct {
		ActivityId, AutoScalingGroupName, Cause, Description, StatusCode, StartTime string
		Progress                                                                    int
	}
	var out struct{ Activities members[activity] }
	for _, id := range ids {
		out.Activities.Items = append(out.Activities.Items, activity{
			ActivityId: a.newID(""), AutoScalingGroupName: name, Cause: "in response to a user request",
			Description: "Moving EC2 instance: " + id, StatusCode: "InProgress", StartTime: wireTime(time.Now()),
		})
	}
	return out, nil
}
