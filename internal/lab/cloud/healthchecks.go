package cloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
)

// verdict is what one health check says; the zero one is that all is well.
type verdict struct{ reason, description string }

// keepChecking checks a target until ctx ends: one request each interval, on a connection of its
// own.
func (a *Account) keepChecking(ctx context.Context, arn, instanceID string) {
	passed, failed := 0, 0
	for {
		a.mu.Lock()
		g, _ := a.targetGroups.get(arn)
		i, _ := a.instances.get(instanceID)
		a.mu.Unlock()
		switch i.State {
		case "shutting-down", "terminated":
			a.mu.Lock()
			a.deregister(arn, instanceID)
			a.mu.Unlock()
			return
		case "stopping", "stopped":
			passed, failed = 0, 0
			a.setTarget(ctx, arn, instanceID, targetUnused, verdict{"Target.InvalidState", "Target is in the stopped state"})
		default:
			v := a.probe(ctx, g.TargetGroupSpec, i.Address)
			if v == (verdict{}) {
				passed, failed = passed+1, 0
			} else {
				passed, failed = 0, failed+1
			}
			a.judge(ctx, arn, instanceID, passed, failed, v)
		}
		if !pause(ctx, g.Interval) {
			return
		}
	}
}

// probe is one health check: a GET, whose answer is 200 (the default matcher of CreateTargetGroup).
func (a *Account) probe(ctx context.Context, g TargetGroupSpec, address netip.Addr) verdict {
	ctx, cancel := context.WithTimeout(ctx, g.Timeout)
	defer cancel()
	url := fmt.Sprintf("http://%s%s", netip.AddrPortFrom(address, uint16(g.HealthPort)), g.HealthPath)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return verdict{"Target.FailedHealthChecks", "Health checks failed"}
	}
	req.Header.Set("User-Agent", "ELB-HealthChecker/2.0")
	// "After each health check is completed, the load balancer node closes the connection that was
	// established for the health check" (ELB User Guide, "Health checks for Application Load
	// Balancer target groups").
	resp, err := (&http.Transport{DialContext: a.opts.Dial, DisableKeepAlives: true}).RoundTrip(req)
	if err == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
		resp.Body.Close()
	}
	var slow net.Error
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &slow) && slow.Timeout():
		return verdict{"Target.Timeout", "Request timed out"}
	case err != nil:
		return verdict{"Target.FailedHealthChecks", "Health checks failed"}
	case resp.StatusCode != http.StatusOK:
		return verdict{"Target.ResponseCodeMismatch", fmt.Sprintf("Health checks failed with these codes: [%d]", resp.StatusCode)}
	}
	return verdict{}
}

// judge gives a target the state that follows from its checks in a row. "After your target is
// registered, it must pass one health check to be considered healthy"; the healthy threshold is
// "the number of consecutive successful health checks required before considering an unhealthy
// target healthy" (the same page).
func (a *Account) judge(ctx context.Context, arn, instanceID string, passed, failed int, v verdict) {
	a.mu.Lock()
	g, _ := a.targetGroups.get(arn)
	t, _ := g.target(instanceID)
	a.mu.Unlock()
	switch {
	case passed >= g.HealthyAfter, passed > 0 && t.State != targetBad:
		a.setTarget(ctx, arn, instanceID, targetHealthy, verdict{})
	case failed >= g.UnhealthyAfter:
		a.setTarget(ctx, arn, instanceID, targetBad, v)
	case t.State == targetInitial, t.State == targetUnused:
		a.setTarget(ctx, arn, instanceID, targetInitial, verdict{"Elb.InitialHealthChecking", "Initial health checks in progress"})
	}
}

// setTarget gives a target a state, unless its checks have ended.
func (a *Account) setTarget(ctx context.Context, arn, instanceID, state string, v verdict) {
	a.mu.Lock()
	defer a.mu.Unlock()
	g, _ := a.targetGroups.get(arn)
	t, ok := g.target(instanceID)
	if ctx.Err() != nil || !ok || t.State == state && t.Reason == v.reason && t.Description == v.description {
		return
	}
	if state == targetBad || state == targetHealthy {
		a.log.Debug("target", "group", g.Name, "instance", instanceID, "state", state, "reason", v.reason)
	}
	t.State, t.Reason, t.Description = state, v.reason, v.description
	a.setTargetGroup(arn, func(g *TargetGroup) {
		g.place(t)
		g.worked = g.worked || state == targetHealthy
	})
}

// shown is a target's state as DescribeTargetHealth answers it.
func (g TargetGroup) shown(instanceID string) Target {
	t, ok := g.target(instanceID)
	t.InstanceID = instanceID
	switch {
	case !ok: // aws-sdk-js #1593
		t.State, t.Reason, t.Description = targetUnused, "Target.NotRegistered", "Target is not registered to the target group"
	case g.broken:
		t.State, t.Reason, t.Description = targetUnknown, "Elb.InternalError", "Target health is unavailable due to an internal error"
	case g.Unused && t.State != targetDraining:
		t.State, t.Reason = targetUnused, "Target.NotInUse"
		t.Description = "Target group is not configured to receive traffic from the load balancer"
	}
	return t
}
