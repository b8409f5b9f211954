package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/pointer"
	"ebs-release/internal/words"
)

// scene is what one look at all members has shown.
type scene struct {
	total   int // members that count: not those that leave, nor those that launched during the step and boot
	in      int // of those, given the release
	good    int // of those, on it and healthy
	pending int // of those, not yet
	bad     []string
	lost    []string // had it, and were replaced as unhealthy
	away    int      // members of either side that cannot serve now
	known   bool     // who is healthy
}

// wants is how many members have the release at the end of the step.
func (d *driver) wants(s scene) int { return d.rollout().Steps[d.rollout().Step].Of(s.total) }

// through says that all that the step wants is there. A step without a healthy member counts for
// nothing.
func (s scene) through(want int) bool {
	return s.known && s.good > 0 && s.pending == 0 && s.good+len(s.bad) >= want
}

// holds says that it is still there: who left may be missed, and nobody else.
func (s scene) holds(want int) bool {
	return !s.known || s.good > 0 && s.good+len(s.bad) >= min(want, s.total)
}

// look is one look at everything: whose rollout it is, where the members are (and they are brought
// to their sides), who is healthy, what the watch says. An error ends the step.
func (d *driver) look(ctx context.Context) (s scene, err error) {
	if left := time.Until(d.rollout().Until); left < leaseLeft || left > leaseTime+mostAhead { // the clock was set back
		if err := d.write(ctx, func(p *pointer.Pointer) {
			p.Rollout.Until = lease(time.Now())
		}); err != nil {
			return s, err
		}
	}
	listed := true
	if _, err := d.round(ctx); err != nil {
		if isCoded(err) || ctx.Err() != nil {
			return s, errors.Join(err, ctx.Err())
		}
		listed = false // it has said why
	}
	reasons, known := d.askHealth(ctx)
	if err := ctx.Err(); err != nil {
		return s, err
	}
	s = d.judge(reasons, listed && known)
	if err := d.remember(ctx); err != nil {
		return s, err
	}
	if s.known {
		d.looked = d.clock.now()
	} else if d.clock.since(d.looked) > d.patience() {
		return s, d.stuck(s, 0)
	}
	failed, had := slices.Concat(s.bad, s.lost), s.in+len(s.lost)
	if d.Settings.MaxFailures.tooManyOf(len(failed), had) {
		return s, fmt.Errorf("%d of %s with the release failed: %s", len(failed), words.Count(had, "member"), strings.Join(failed, "; "))
	}
	return s, d.lookOut(ctx)
}

// askHealth asks about all members that stay.
func (d *driver) askHealth(ctx context.Context) (reasons map[string]string, known bool) {
	if d.Health == nil {
		return nil, true
	}
	ctx, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	reasons, err := d.Health.Look(ctx, d.rollout().Terms.Healthy, d.members.listedNow())
	if err != nil {
		if ctx.Err() == nil {
			d.say(Event{Kind: KindWarning, Text: fmt.Sprintf("who is healthy is not known: %v", err)})
		}
		return nil, false
	}
	return reasons, true
}

// healthTime is for one question about all members.
const healthTime = time.Minute

// tooManyOf is for a rollout: without a limit, one failure is too many.
func (m MaxFailures) tooManyOf(failed, of int) bool {
	if !m.limited {
		return failed > 0
	}
	return m.exceeded(failed, of)
}

// judge counts what the look has shown.
func (d *driver) judge(reasons map[string]string, known bool) (s scene) {
	s.known = known
	now, ro := d.clock.now(), d.rollout()
	d.members.mu.Lock()
	defer d.members.mu.Unlock()
	for id, m := range d.members.all {
		m.counted = false
		d.died(m)
		if m.gone || isLeaving(m.LifecycleState) || isStandby(m.LifecycleState) {
			continue
		}
		stands, reason := m.standing(), reasons[id]
		m.unhealthy = reason != ""
		in := ro.Includes(instanceOf(m.Member))
		if !in {
			serves := reason == "" && stands != StandsBooting && stands != StandsHookFailed
			if m.counted = serves || !d.launched(m); m.counted {
				m.met = true
				s.total++
			}
			if m.counted && !serves && (stands != StandsBooting || m.LifecycleState == inService) {
				s.away++
			}
			continue
		}
		why, verdict := d.verdict(m, stands, reason, now)
		if verdict != isGood && !m.fails() && d.launched(m) {
			continue // it counts when it is there
		}
		m.counted, m.met = true, true
		s.total++
		s.in++
		switch verdict {
		case isGood:
			s.good++
		case isBad:
			s.bad = append(s.bad, why)
			s.away++
		default:
			s.pending++
			s.away++
		}
	}
	for _, has := range d.deaths {
		if has.verdict != "" {
			s.lost = append(s.lost, has.verdict)
		}
	}
	slices.Sort(s.bad)
	slices.Sort(s.lost)
	return s
}

// launched says that a member came during the step, and that nobody has counted on it yet: the
// step does not wait for it.
func (d *driver) launched(m *member) bool { return m.seen.After(d.stepped) && !m.met }

// isStandby: an operator has taken the traffic from it, so it says nothing about a release, and is
// missed by nobody.
func isStandby(state string) bool { return strings.Contains(state, "Standby") }

const inService = "InService" // of Auto Scaling

type verdict int

const (
	isPending verdict = iota
	isGood
	isBad
)

// verdict says how a member does that is given the release, and why not well.
func (d *driver) verdict(m *member, stands Standing, reason string, now time.Time) (why string, v verdict) {
	id := m.InstanceID
	if d.since[id].IsZero() {
		d.since[id] = now
	}
	if stands == StandsCurrent && reason == "" {
		if !d.was[id] {
			d.moved = now
		}
		d.since[id], d.was[id], d.strikes[id] = time.Time{}, true, 0
		return "", isGood
	}
	why = id + ": " + reason
	if reason == "" {
		why = m.why()
	}
	switch {
	case m.fails(), m.refuses():
		return why, isBad
	case reason != "" && d.was[id] && stands == StandsCurrent:
		if d.strikes[id]++; d.strikes[id] > 1 { // once may be one check that was lost
			return why, isBad
		}
	case now.Sub(d.since[id]) > d.patience():
		return fmt.Sprintf("%s, after %v", why, d.patience()), isBad
	}
	return why, isPending
}
