package cloud

import "strings"

type healthXML struct {
	HealthCheckPort string
	Target          targetXML
	TargetHealth    struct {
		State       string
		Reason      string `xml:",omitempty"`
		Description string `xml:",omitempty"`
	}
}

type targetXML struct {
	Id   string
	Port int
}

// describeTargetHealth answers for the named targets, or else for all that are registered. It has
// no pages.
func describeTargetHealth(c *call) (any, error) {
	p, a := c.params, c.account
	arn := p.need("TargetGroupArn")
	asked := targetIDs(p)
	if err := p.end(); err != nil {
		return nil, validation(err)
	}
	// "Describe actions do not support resource-level permissions" (Service Authorization
	// Reference, "Elastic Load Balancing V2": no resource type beside DescribeTargetHealth).
	if err := c.authorize(target{arn: "*"}); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	g, ok := a.targetGroups.getAsOf(arn, c.at)
	if !ok {
		return nil, noTargetGroup(arn)
	}
	if len(asked) == 0 {
		for _, t := range g.Targets {
			asked = append(asked, t.InstanceID)
		}
	}
	var out struct {
		TargetHealthDescriptions members[healthXML]
	}
	for _, id := range asked {
		t := g.shown(id)
		h := healthXML{HealthCheckPort: digits(int32(g.HealthPort))[0], Target: targetXML{id, g.Port}}
		h.TargetHealth.State, h.TargetHealth.Reason, h.TargetHealth.Description = t.State, t.Reason, t.Description
		out.TargetHealthDescriptions.Items = append(out.TargetHealthDescriptions.Items, h)
	}
	return out, nil
}

// targetIDs reads Targets. The lab's targets are instances, on the port of their group.
func targetIDs(p params) (ids []string) {
	for _, t := range p.each("Targets.member") {
		id := t.need("Id")
		if !strings.HasPrefix(id, "i-") {
			p.wrong(fail("ValidationError", "Instance ID '%s' is not valid", id))
		}
		ids = append(ids, id)
	}
	return ids
}

func registerTargets(c *call) (any, error) {
	return c.withTargets(func(a *Account, arn, id string) error { return a.register(arn, id) })
}

func deregisterTargets(c *call) (any, error) {
	return c.withTargets(func(a *Account, arn, id string) error {
		a.deregister(arn, id)
		return nil
	})
}

func (c *call) withTargets(do func(a *Account, arn, id string) error) (any, error) {
	p, a := c.params, c.account
	arn := p.need("TargetGroupArn")
	ids := targetIDs(p)
	if len(ids) == 0 {
		p.wrong(fail("ValidationError", "A target must be specified"))
	}
	if err := p.end(); err != nil {
		return nil, validation(err)
	}
	if err := c.authorize(target{arn: arn}); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.targetGroups.get(arn); !ok {
		return nil, noTargetGroup(arn)
	}
	for _, id := range ids {
		if err := do(a, arn, id); err != nil {
			return nil, err
		}
	}
	return struct{}{}, nil
}
