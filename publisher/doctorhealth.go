package main

import (
	"context"
	"maps"
	"slices"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/health"
)

// health asks for the members' health as a rollout does: the rights are tried with it.
func (d *memberChecks) health(ctx context.Context) (string, error) {
	by := d.values.Get("healthy")
	if by == health.Programs {
		return "by their own programs", nil
	}
	reasons, err := d.Health.Look(ctx, by, d.listed)
	if err != nil {
		return "", d.ofRollouts(err)
	}
	var bad []string
	for _, id := range slices.Sorted(maps.Keys(reasons)) {
		bad = append(bad, id+": "+reasons[id])
	}
	switch {
	case len(bad) > 0:
		return "", warn("by %s, %d of %d are not healthy: %s", by, len(bad), len(d.listed), strings.Join(bad, "; "))
	case len(d.listed) == 0:
		return "", warn("cannot be tried: there is no member")
	}
	return "all, by " + by, nil
}

// refreshes are of Auto Scaling, and replace members.
func (d *memberChecks) refreshes(ctx context.Context) (string, error) {
	if err := d.Health.Idle(ctx); err != nil {
		return "", d.ofRollouts(err)
	}
	return "none is going on", nil
}

// ofRollouts is what only a rollout cannot live with.
func (d *memberChecks) ofRollouts(err error) error {
	if d.values.Get("steps") == "" {
		words, try := advice.Of(err)
		return advice.Try(warn("no rollout could begin: %s", words), "%s", try)
	}
	return err
}
