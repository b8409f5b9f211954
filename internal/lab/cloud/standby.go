package cloud

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
	name, ids := c.params.need("AutoScalingGroupName"), c.params.list("InstanceIds.member")
	return c.onGroup(name, func(a *Account, g Group) (any, error) {
		for _, id := range ids {
			if of, m, _ := a.memberOf(id); of.Name != name || m.State != from {
				return nil, fail("ValidationError", "The instance %s is not in %s.", id, from)
			}
		}
		if err := move(a, g, ids); err != nil {
			return nil, err
		}
		var out struct{ Activities members[activityXML] }
		for _, id := range ids {
			out.Activities.Items = append(out.Activities.Items, a.activity(name, "in response to a user request", "Moving EC2 instance: "+id))
		}
		return out, nil
	})
}
