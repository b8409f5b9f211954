package publish

import (
	"context"
	"maps"
	"strings"

	"ebs-release/internal/pointer"
)

// death is what is known of whether a member dies of the release.
type death struct {
	well    bool   // Auto Scaling had it as healthy, during this rollout
	sick    bool   // and then as unhealthy, while it ran and was on the release
	verdict string // why it counts as failed; that stays
}

// The codes of EC2's StateReason that say who ended a machine ("StateReason", EC2 API Reference).
// All others that Auto Scaling's own terminations, an operator's and a spot interruption have are
// not the machine's doing.
const (
	endedByAWS    = "Server." // a spot interruption, retired hardware, …
	endedByItself = "Client.InstanceInitiatedShutdown"
)

// remembered are those that whoever drove the rollout before has seen.
func remembered(ro pointer.Rollout) map[string]*death {
	deaths := map[string]*death{}
	for id, how := range ro.Lost {
		deaths[id] = &death{verdict: how}
	}
	return deaths
}

// remember has the pointer name those that are new, for whoever drives the rollout next: no listing
// shows them any more.
func (d *driver) remember(ctx context.Context) error {
	lost := maps.Clone(d.rollout().Lost)
	if lost == nil {
		lost = map[string]string{}
	}
	for id, has := range d.deaths {
		if has.verdict != "" && len(lost) < pointer.MostLost {
			lost[id] = has.verdict
		}
	}
	if len(lost) == len(d.rollout().Lost) {
		return nil
	}
	return d.write(ctx, func(p *pointer.Pointer) { p.Rollout.Lost = lost })
}

// died notes whether a member that had the release counts as failed although it leaves, or is gone.
// A group loses members all the time: by scale-in, rebalancing, a refresh (Auto Scaling has those
// as healthy to their end), by a spot interruption or an operator who terminates them (unhealthy
// only when they run no more). A release that kills them shows otherwise: Auto Scaling finds a
// machine unhealthy that runs, and replaces it; or the machine ends by itself.
func (d *driver) died(m *member) {
	id := m.InstanceID
	has := d.deaths[id]
	if has == nil {
		has = &death{}
		d.deaths[id] = has
	}
	leaves := m.gone || isLeaving(m.LifecycleState)
	switch {
	case has.verdict != "":
	case strings.HasPrefix(m.Ended, endedByAWS):
		has.sick = false
	case !m.Unhealthy && !leaves:
		has.well, has.sick = true, false
	case !d.was[id] || !has.well:
	case leaves && m.Ended == endedByItself:
		has.verdict = id + ": it was on the release, and its machine has ended by itself"
	case leaves && has.sick:
		has.verdict = id + ": it was on the release, and Auto Scaling replaces it as unhealthy"
	case m.Unhealthy && m.Machine == running: // by two looks, as two lists are never of the same moment
		has.sick = true
	}
}

const running = "running" // of EC2
