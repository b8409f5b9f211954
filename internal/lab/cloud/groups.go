package cloud

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Group is an Auto Scaling group. Values are never changed: the account puts new ones.
type Group struct {
	Name              string
	ARN               string
	Zones             []string
	Min, Max, Desired int32
	Template          TemplateRef
	Hooks             []Hook
	Tags              map[string]string // all of them propagate to instances at launch
	Created           time.Time
	Deleting          bool
	Members           []Member // those of the warm pool, too
	Traffic
	Refreshes []Refresh // in the order of their start
	Pool      *Pool     // nil: it has no warm pool
}

// Traffic is how a group and load balancers go together.
type Traffic struct {
	TargetGroups []string      // ARNs, attached by AttachLoadBalancerTargetGroups
	Sources      []string      // the same, attached by AttachTrafficSources
	ELBHealth    bool          // HealthCheckType ELB, else EC2
	Grace        time.Duration // HealthCheckGracePeriod: from InService on; default 0, as in CreateAutoScalingGroup
}

// Member is an instance in a group.
type Member struct {
	InstanceID string
	Zone       string
	Type       string
	State      string // a lifecycle state: Pending, Pending:Wait, InService, Terminating, …
	Healthy    bool
	Since      time.Time // in this state
	Hook       string    // the lifecycle hook that it waits for
	HookToken  string
	Deadline   time.Time // when the hook times out
	HookStart  time.Time
	template   int64     // the version of the group's template that it was launched from
	settled    bool      // its hooks of this transition are done
	replaceAt  time.Time // when Auto Scaling acts on its being unhealthy
	waitsAt    time.Time // when it will wait for its launch hook; zero: not known yet
	returning  bool      // from service into the warm pool
}

// Hook is a lifecycle hook ("Amazon EC2 Auto Scaling lifecycle hooks").
type Hook struct {
	Name    string
	Launch  bool          // on launch (autoscaling:EC2_INSTANCE_LAUNCHING), else on termination
	Timeout time.Duration // HeartbeatTimeout; default one hour
	Abandon bool          // DefaultResult: ABANDON, else CONTINUE
}

// GroupSpec says what group to make.
type GroupSpec struct {
	Name              string
	Zones             []string // default: all of the account's
	Min, Max, Desired int32
	Template          TemplateRef // none: one is made of Launch
	Launch            RunSpec     // Zone is the group's business
	Hooks             []Hook
	Tags              map[string]string
	Traffic
	Pool *Pool
}

// hookLimit: "The maximum amount of time that you can keep an instance in a wait state is 48 hours
// or 100 times the heartbeat timeout, whichever is smaller" (Auto Scaling User Guide, "How
// lifecycle hooks work").
func hookLimit(timeout time.Duration) time.Duration { return min(48*time.Hour, 100*timeout) }

// CreateGroup makes a group and starts to keep its capacity.
func (a *Account) CreateGroup(spec GroupSpec) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old, ok := a.groups.get(spec.Name); ok && old.Name != "" {
		return fail("AlreadyExists", "AutoScalingGroup by this name already exists - A group with the name %s already exists", spec.Name)
	}
	if len(spec.Zones) == 0 {
		spec.Zones = a.opts.Zones
	}
	if spec.Max < spec.Desired {
		spec.Max = spec.Desired
	}
	if spec.Name == "" || spec.Min < 0 || spec.Desired < spec.Min {
		return fmt.Errorf("create group %q: want a name and 0 <= min %d <= desired %d", spec.Name, spec.Min, spec.Desired)
	}
	for _, arn := range spec.all() {
		if _, ok := a.targetGroups.get(arn); !ok {
			return fail("ValidationError", "Provided Target Groups may not be valid. Please ensure they exist and try again.")
		}
	}
	if err := a.groupTemplate(&spec); err != nil {
		return err
	}
	hooks := slices.Clone(spec.Hooks)
	for i := range hooks {
		if hooks[i].Timeout == 0 {
			hooks[i].Timeout = time.Hour // "By default, the timeout is one hour" (LifecycleHook, HeartbeatTimeout)
		}
	}
	g := Group{
		Name: spec.Name, Zones: slices.Clone(spec.Zones), Min: spec.Min, Max: spec.Max, Desired: spec.Desired, Hooks: hooks,
		Template: spec.Template, Tags: maps.Clone(spec.Tags), Created: time.Now(), Traffic: spec.Traffic, Pool: spec.Pool,
		ARN: fmt.Sprintf("arn:aws:autoscaling:%s:%s:autoScalingGroup:%s:autoScalingGroupName/%s",
			a.opts.Region, a.opts.AccountID, a.token(16), spec.Name),
	}
	a.groups.put(g.Name, g)
	a.notify()
	a.spawn(func(ctx context.Context) { a.scale(ctx, g.Name) })
	return nil
}

// SetDesired changes the desired capacity of a group.
func (a *Account) SetDesired(name string, n int32) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	g, ok := a.groups.get(name)
	if !ok {
		return noGroup(name)
	}
	if n < g.Min {
		return fail("ValidationError", "New SetDesiredCapacity value %d is below min value %d for the AutoScalingGroup.", n, g.Min)
	}
	if n > g.Max {
		return fail("ValidationError", "New SetDesiredCapacity value %d is above max value %d for the AutoScalingGroup.", n, g.Max)
	}
	a.setGroup(name, func(g *Group) { g.Desired = n })
	return nil
}

// SetLaunch changes what a group launches from now on: another version of its launch template
// becomes the default.
func (a *Account) SetLaunch(name string, spec RunSpec) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	g, ok := a.groups.get(name)
	if !ok {
		return noGroup(name)
	}
	t, err := a.templateOf(g.Template.ID, "", time.Now())
	if err != nil {
		return err
	}
	t.Default = a.addVersion(&t, TemplateVersion{By: a.admin.AccessKeyID, Data: spec.templateData()}).Number
	a.templates.put(t.ID, t)
	return nil
}

func noGroup(name string) error {
	return fail("ValidationError", "AutoScalingGroup name not found - AutoScalingGroup '%s' not found", name)
}

// setGroup changes a group. mu is held.
func (a *Account) setGroup(name string, change func(*Group)) {
	g, ok := a.groups.get(name)
	if !ok {
		return
	}
	g.Members = slices.Clone(g.Members)
	change(&g)
	a.groups.put(name, g)
	a.notify()
}

// setMember changes one member of a group. mu is held.
func (a *Account) setMember(group, instanceID string, change func(*Member)) {
	a.setGroup(group, func(g *Group) {
		for i := range g.Members {
			if g.Members[i].InstanceID == instanceID {
				change(&g.Members[i])
			}
		}
	})
}

// groupTarget is a group as policies see it.
func (c *call) groupTarget(name string) target {
	a := c.account
	a.mu.Lock()
	defer a.mu.Unlock()
	g, ok := a.groups.get(name)
	if !ok {
		return target{arn: fmt.Sprintf("arn:aws:autoscaling:%s:%s:autoScalingGroup:*:autoScalingGroupName/%s",
			a.opts.Region, a.opts.AccountID, name)}
	}
	conditions := map[string][]string{}
	for key, value := range g.Tags {
		conditions["autoscaling:ResourceTag/"+key] = []string{value}
		conditions["aws:ResourceTag/"+key] = []string{value}
	}
	return target{g.ARN, conditions}
}

// validation turns what the parameter reader found into Auto Scaling's own code ("Common errors":
// ValidationError).
func validation(err error) error {
	var known *apiError
	if errors.As(err, &known) {
		return fail("ValidationError", "%s", known.Message)
	}
	return err
}
