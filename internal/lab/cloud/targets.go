package cloud

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// TargetGroup is a target group of instances of Elastic Load Balancing, with health checks by HTTP.
// Values are never changed: the account puts new ones.
type TargetGroup struct {
	TargetGroupSpec
	ARN     string
	Targets []Target
	broken  bool // no health is to be had
	worked  bool // a target of it was healthy once
}

// TargetGroupSpec says what target group to make. The defaults are those of CreateTargetGroup; AWS
// takes no interval below 5 s, and no time-out below 2 s: a test may.
type TargetGroupSpec struct {
	Name                         string
	Port                         int           // of the application; default 80
	HealthPort                   int           // default: Port ("traffic-port")
	HealthPath                   string        // default "/"
	Interval                     time.Duration // default 30 s
	Timeout                      time.Duration // of a check; default 5 s
	HealthyAfter, UnhealthyAfter int           // checks in a row; default 5 and 2
	DeregistrationDelay          time.Duration // default 300 s; a negative one is none
	Unused                       bool          // no load balancer has it
}

// Target is an instance in a target group. Its states and reasons are those of TargetHealth in the
// API reference.
type Target struct {
	InstanceID                 string
	State, Reason, Description string
	Since                      time.Time // it was registered, or deregistered
	Until                      time.Time // the end of draining
}

const (
	targetInitial  = "initial"
	targetHealthy  = "healthy"
	targetBad      = "unhealthy"
	targetUnused   = "unused"
	targetDraining = "draining"
	targetUnknown  = "unavailable"
)

// CreateTargetGroup makes a target group, and returns its ARN.
func (a *Account) CreateTargetGroup(spec TargetGroupSpec) (arn string, err error) {
	if spec.Name == "" || spec.Port < 0 || spec.HealthPort < 0 {
		return "", fmt.Errorf("create target group %q: want a name and ports", spec.Name)
	}
	if a.opts.Dial == nil && !spec.Unused {
		return "", fmt.Errorf("create target group %s: Options.Dial is missing", spec.Name)
	}
	if spec.Port == 0 {
		spec.Port = 80
	}
	if spec.HealthPort == 0 {
		spec.HealthPort = spec.Port
	}
	if spec.HealthPath == "" {
		spec.HealthPath = "/"
	}
	if spec.Interval == 0 {
		spec.Interval = 30 * time.Second
	}
	if spec.Timeout == 0 {
		spec.Timeout = 5 * time.Second
	}
	if spec.HealthyAfter == 0 {
		spec.HealthyAfter = 5
	}
	if spec.UnhealthyAfter == 0 {
		spec.UnhealthyAfter = 2
	}
	if spec.DeregistrationDelay == 0 {
		spec.DeregistrationDelay = 300 * time.Second
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	arn = fmt.Sprintf("arn:aws:elasticloadbalancing:%s:%s:targetgroup/%s/%016x", a.opts.Region, a.opts.AccountID, spec.Name, a.rng.Uint64())
	a.targetGroups.put(arn, TargetGroup{TargetGroupSpec: spec, ARN: arn})
	a.notify()
	return arn, nil
}

// TargetGroups returns all target groups as they are, in the order of creation.
func (a *Account) TargetGroups() []TargetGroup { return all(a, &a.targetGroups) }

// BreakTargetHealth makes the health of all targets of a group unavailable, or available again
// ("Elb.InternalError - Target health is unavailable due to an internal error", TargetHealth).
func (a *Account) BreakTargetHealth(arn string, broken bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.setTargetGroup(arn, func(g *TargetGroup) { g.broken = broken })
}

// setTargetGroup changes a target group. mu is held.
func (a *Account) setTargetGroup(arn string, change func(*TargetGroup)) {
	g, ok := a.targetGroups.get(arn)
	if !ok {
		return
	}
	g.Targets = slices.Clone(g.Targets)
	change(&g)
	a.targetGroups.put(arn, g)
	a.notify()
}

// target finds the target of an instance.
func (g TargetGroup) target(instanceID string) (Target, bool) {
	at := slices.IndexFunc(g.Targets, func(t Target) bool { return t.InstanceID == instanceID })
	if at < 0 {
		return Target{}, false
	}
	return g.Targets[at], true
}

// place puts a target, in the place of the one that the instance has.
func (g *TargetGroup) place(t Target) {
	g.remove(t.InstanceID)
	g.Targets = append(g.Targets, t)
}

func (g *TargetGroup) remove(instanceID string) {
	g.Targets = slices.DeleteFunc(g.Targets, func(t Target) bool { return t.InstanceID == instanceID })
}

// targetKey names a target in the account's maps.
func targetKey(arn, instanceID string) string { return arn + " " + instanceID }

// register puts a running instance into a target group, and starts to check it; one that is there
// and not on its way out stays as it is. mu is held.
func (a *Account) register(arn, instanceID string) error {
	g, ok := a.targetGroups.get(arn)
	if !ok {
		return noTargetGroup(arn)
	}
	// "If the target is an EC2 instance, it must be in the running state when you register it"
	// (RegisterTargets).
	if i, _ := a.instances.get(instanceID); i.State != "running" {
		return fail("InvalidTarget", "The following targets are not in a running state and cannot be registered: '%s'", instanceID)
	}
	if t, ok := g.target(instanceID); ok && t.State != targetDraining {
		return nil
	}
	a.setTargetGroup(arn, func(g *TargetGroup) {
		g.place(Target{InstanceID: instanceID, Since: time.Now(),
			State: targetInitial, Reason: "Elb.RegistrationInProgress", Description: "Target registration is in progress"})
	})
	ctx, cancel := context.WithCancel(a.ctx)
	a.checks[targetKey(arn, instanceID)] = cancel
	after := a.sample(a.opts.Latency.Register)
	a.spawn(func(context.Context) {
		defer cancel()
		if pause(ctx, after) {
			a.keepChecking(ctx, arn, instanceID)
		}
	})
	return nil
}

// deregister starts to drain a target; it is gone after the deregistration delay: "the status of
// the target is displayed as draining until the deregistration delay timeout expires", even when
// nothing is in flight (ELB User Guide, "Deregistration delay"). mu is held.
func (a *Account) deregister(arn, instanceID string) {
	g, _ := a.targetGroups.get(arn)
	if t, ok := g.target(instanceID); !ok || t.State == targetDraining {
		return
	}
	if cancel := a.checks[targetKey(arn, instanceID)]; cancel != nil {
		cancel()
	}
	delay, now := max(0, g.DeregistrationDelay), time.Now()
	a.setTargetGroup(arn, func(g *TargetGroup) {
		g.place(Target{InstanceID: instanceID, Since: now, Until: now.Add(delay), State: targetDraining,
			Reason: "Target.DeregistrationInProgress", Description: "Target deregistration is in progress"})
	})
	a.spawn(func(ctx context.Context) {
		if !pause(ctx, delay) {
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		g, _ := a.targetGroups.get(arn)
		if t, _ := g.target(instanceID); t.State == targetDraining && t.Since.Equal(now) { // else it was registered again
			a.setTargetGroup(arn, func(g *TargetGroup) { g.remove(instanceID) })
		}
	})
}

// drained says whether the deregistration of a target is complete, and when to look again if it is
// not: "if a deregistering target has no in-flight requests and no active connections, Elastic Load
// Balancing immediately completes the deregistration process" ("Deregistration delay"). mu is held.
func (a *Account) drained(arn string, t Target) (done bool, again time.Time) {
	now, routed := time.Now(), t.Since.Add(a.opts.Latency.Routing)
	switch {
	case !now.Before(t.Until):
		return true, time.Time{}
	case now.Before(routed): // the load balancer may not have heard of it
		return false, minTime(routed, t.Until)
	case a.inFlight[targetKey(arn, t.InstanceID)] == 0:
		return true, time.Time{}
	}
	return false, t.Until // or at the end of a request, which is a change
}

func minTime(x, y time.Time) time.Time {
	if y.Before(x) {
		return y
	}
	return x
}

func noTargetGroup(arn string) error {
	return &apiError{"TargetGroupNotFound", fmt.Sprintf("Target groups '%s' not found", arn), http.StatusBadRequest}
}
