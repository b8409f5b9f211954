package cloud

import (
	"fmt"
	"slices"
)

// groupPage is page, with Auto Scaling's word for a token that is none.
func groupPage[T any](list []entry[T], max int32, token string) (out []entry[T], next string, err error) {
	if out, next, err = page(list, max, token); err != nil {
		err = fail("InvalidNextToken", "The token '%s' is not valid", token)
	}
	return out, next, err
}

// ofGroup answers from the group of a name, as the call sees it. mu is held meanwhile.
func (c *call) ofGroup(name string, answer func(a *Account, g Group) (any, error)) (any, error) {
	a := c.account
	if err := c.params.end(); err != nil {
		return nil, validation(err)
	}
	if err := c.authorize(target{arn: "*"}); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	g, ok := a.groups.getAsOf(name, c.at)
	if !ok {
		return nil, noGroup(name)
	}
	return answer(a, g)
}

func describeGroups(c *call) (any, error) {
	p, a := c.params, c.account
	names, filters := p.list("AutoScalingGroupNames.member"), p.filters("Filters.member", "Values.member")
	max := p.number("MaxRecords", 50, 1, 100) // its API reference
	token, instances := p.str("NextToken"), p.boolean("IncludeInstances", true)
	if err := p.end(); err != nil {
		return nil, validation(err)
	}
	// "By default, you can only specify up to 50 names. You can optionally increase this limit using
	// the MaxRecords property."
	if int32(len(names)) > max {
		return nil, fail("ValidationError", "The number of group names %d exceeds the maximum number of records %d", len(names), max)
	}
	known := fields[Group]{}
	if err := check(filters, known); err != nil {
		return nil, validation(err)
	}
	if err := c.authorize(target{arn: "*"}); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []entry[Group]
	for _, e := range a.groups.list(c.at) {
		if len(names) == 0 || slices.Contains(names, e.value.Name) { // an unknown name is not an error (DescribeAutoScalingGroups)
			list = append(list, e)
		}
	}
	list, next, err := groupPage(list, max, token)
	if err != nil {
		return nil, err
	}
	out := struct {
		Groups    members[groupXML] `xml:"AutoScalingGroups"`
		NextToken string            `xml:",omitempty"`
	}{NextToken: next}
	for _, e := range list {
		if matches(filters, known, e.value, e.value.Tags) {
			out.Groups.Items = append(out.Groups.Items, a.renderGroup(e.value, instances))
		}
	}
	return out, nil
}

func describeMembers(c *call) (any, error) {
	p, a := c.params, c.account
	ids := p.list("InstanceIds.member")
	max, token := p.number("MaxRecords", 50, 1, 50), p.str("NextToken") // "the maximum value is 50" (MaxRecords)
	if err := p.end(); err != nil {
		return nil, validation(err)
	}
	if len(ids) > 50 { // "Array Members: Maximum number of 50 items" (InstanceIds)
		return nil, fail("ValidationError", "The number of instance ids exceeds 50")
	}
	if err := c.authorize(target{arn: "*"}); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	type item struct {
		memberXML
		AutoScalingGroupName string
	}
	var list []entry[item]
	for _, g := range a.groups.list(c.at) {
		for n, m := range g.value.Members {
			if len(ids) == 0 || slices.Contains(ids, m.InstanceID) {
				list = append(list, entry[item]{g.sequence*1000 + n, item{a.renderMember(g.value, m), g.value.Name}})
			}
		}
	}
	list, next, err := groupPage(list, max, token)
	if err != nil {
		return nil, err
	}
	out := struct {
		Instances members[item] `xml:"AutoScalingInstances"`
		NextToken string        `xml:",omitempty"`
	}{NextToken: next}
	for _, e := range list {
		out.Instances.Items = append(out.Instances.Items, e.value)
	}
	return out, nil
}

type groupXML struct {
	AutoScalingGroupName, AutoScalingGroupARN string
	MinSize, MaxSize, DesiredCapacity         int32
	DefaultCooldown                           int32
	AvailabilityZones                         members[string]
	HealthCheckType                           string
	HealthCheckGracePeriod                    int32
	CreatedTime                               string
	Status                                    string `xml:",omitempty"`
	TargetGroupARNs                           members[string]
	TrafficSources                            members[sourceXML]
	Instances                                 members[memberXML]
	LaunchTemplate                            *templateXML
	MixedInstancesPolicy                      *mixedXML
	Tags                                      members[groupTagXML]
	TerminationPolicies                       members[string]
	WarmPoolConfiguration                     *poolXML `xml:",omitempty"`
	WarmPoolSize                              int32
}

type templateXML struct{ LaunchTemplateId, LaunchTemplateName, Version string }

// mixedXML is a MixedInstancesPolicy: its template stands where another group has none.
type mixedXML struct {
	LaunchTemplate struct{ LaunchTemplateSpecification templateXML }
}

type groupTagXML struct {
	Key, Value, ResourceId, ResourceType string
	PropagateAtLaunch                    bool
}

type memberXML struct {
	InstanceId, InstanceType, AvailabilityZone, LifecycleState, HealthStatus string
	LaunchTemplate                                                           templateXML
	ProtectedFromScaleIn                                                     bool
}

func (a *Account) renderGroup(g Group, instances bool) groupXML {
	out := groupXML{
		AutoScalingGroupName: g.Name, AutoScalingGroupARN: g.ARN, MinSize: g.Min,
		MaxSize: g.Max, DesiredCapacity: g.Desired, DefaultCooldown: 300,
		AvailabilityZones: members[string]{g.Zones}, HealthCheckType: "EC2", HealthCheckGracePeriod: int32(g.Grace.Seconds()),
		TargetGroupARNs: members[string]{g.TargetGroups}, CreatedTime: wireTime(g.Created),
		TerminationPolicies: members[string]{[]string{"Default"}},
	}
	for _, arn := range g.all() {
		out.TrafficSources.Items = append(out.TrafficSources.Items, sourceXML{Identifier: arn, Type: "elbv2"})
	}
	if g.ELBHealth {
		out.HealthCheckType = "ELB"
	}
	template := a.renderTemplate(g, g.Template.Version)
	if g.Template.Mixed {
		out.MixedInstancesPolicy = &mixedXML{}
		out.MixedInstancesPolicy.LaunchTemplate.LaunchTemplateSpecification = template
	} else {
		out.LaunchTemplate = &template
	}
	if g.Deleting {
		out.Status = "Delete in progress"
	}
	for _, key := range sortedKeys(g.Tags) {
		out.Tags.Items = append(out.Tags.Items, groupTagXML{key, g.Tags[key], g.Name, "auto-scaling-group", true})
	}
	out.WarmPoolConfiguration = renderPool(g)
	for _, m := range g.Members {
		if m.warmed() { // they are in DescribeWarmPool: "WarmPoolSize: the current size of the warm pool"
			out.WarmPoolSize++
		} else if instances {
			out.Instances.Items = append(out.Instances.Items, a.renderMember(g, m))
		}
	}
	return out
}

func (a *Account) renderMember(g Group, m Member) memberXML {
	out := memberXML{
		InstanceId: m.InstanceID, InstanceType: m.Type, AvailabilityZone: m.Zone, LifecycleState: m.State, HealthStatus: "Healthy",
		LaunchTemplate: a.renderTemplate(g, fmt.Sprint(m.template)),
	}
	if !m.Healthy {
		out.HealthStatus = "Unhealthy"
	}
	return out
}

// renderTemplate shows which version, by its number or as the group has it. mu is held.
func (a *Account) renderTemplate(g Group, version string) templateXML {
	t, _ := a.templates.get(g.Template.ID)
	return templateXML{g.Template.ID, t.Name, version}
}
