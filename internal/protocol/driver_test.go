package protocol

import (
	"context"
	"time"

	"ebs-release/internal/publish"
)

// The mutant of the real driver, in what it is shown.
const seesNoneLate = "a driver sees members on their targets who are behind"

// driving: the real driver carries a rollout on that is open, and given to nobody yet. When it has
// said that a step is over, none of those that served as the step began is off its side while the
// pointer stays as it is.
var driving = []scenario{
	{"rollout by the real driver to a member", medium, func(w *world) {
		w.rolling()
		w.begun()
		w.serving("m")
		w.server().drives("A")
	}, small},
	{"rollout by the real driver to one of two members", coarse, func(w *world) {
		w.rolling()
		w.begun()
		w.serving("m")
		w.serving(before("m"))
		w.server().drives("A")
	}, large},
	{"rollout by the real driver to a member that follows", coarse, func(w *world) {
		w.rolling()
		w.followed()
		w.begun()
		w.follow(w.serving("m"))
		w.server().drives("A")
	}, small},
	{"rollout by the real driver to a member, aborted by another driver", coarse, func(w *world) {
		w.rolling()
		w.begun()
		w.serving("m")
		w.server().drives("A")
		w.server().drive("B", abort, onTarget)
	}, large},
	{"rollout by the real driver to a member, paused by another driver", coarse, func(w *world) {
		w.rolling()
		w.begun()
		w.serving("m")
		w.server().drives("A")
		w.server().drive("B", pause)
	}, large},
	{"rollout by the real driver, which is killed, and carried on by another real one", coarse, func(w *world) {
		w.rolling()
		w.begun()
		w.serving("m")
		a, other := w.server().drives("A"), w.server()
		w.event("kill", func() { w.s.kill(a); other.drives("B") })
	}, large},
	{"rollout by the real driver, and boot", coarse, func(w *world) {
		w.rolling()
		w.begun()
		w.serving(before("m"))
		w.up(w.add("m"))
		w.server().drives("A")
	}, large},
}

// drives has the real driver take the rollout over.
func (s *server) drives(name string) *actor {
	return s.run(name, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) { return p.Resume(ctx, true) })
}

// hears what the real driver says: that a step is over is a claim.
func (d *desk) hears(e publish.Event) {
	if e.Rollout == nil {
		return
	}
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	switch e.Rollout.Event {
	case publish.RolloutStep:
		d.began = time.Now()
	case publish.RolloutPassed:
		for _, b := range d.boxes {
			if !b.told.IsZero() && b.told.Before(d.began) {
				b.sure = d.knows
			}
		}
	}
}
