package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
)

// Resume drives a rollout on from its step, whoever began it. force: also while its driver seems to
// be at work.
func (p *Publisher) Resume(ctx context.Context, force bool) (Outcome, error) {
	return newRun(p, "").do(ctx, []phase{
		{"P0", "check", func(r *run, ctx context.Context) error { return r.takeOver(ctx, force) }},
		{"P5", "rollout", (*run).roll},
		{"P5", "converge", (*run).converge},
		{"P6", "snapshot", (*run).snapshotLater},
		{"P7", "report", (*run).report},
	})
}

// Finish gives the release of a rollout to all members at once, and ends it.
func (p *Publisher) Finish(ctx context.Context) (Outcome, error) {
	return newRun(p, "").do(ctx, []phase{
		{"P0", "check", (*run).checkRollout},
		{"P4", "commit", func(r *run, ctx context.Context) error {
			return r.change(ctx, func(p pointer.Pointer) pointer.Pointer { return finished(p, time.Now()) }, RolloutFinished, "")
		}},
		{"P5", "converge", (*run).converge},
		{"P6", "snapshot", (*run).snapshotLater},
		{"P7", "report", (*run).report},
	})
}

// Abort ends a rollout: everybody gets the stable release, as a new generation. It asks nobody and
// waits for nobody before that is written: neither members nor a driver nor a lock keep it.
func (p *Publisher) Abort(ctx context.Context, why string) (Outcome, error) {
	return newRun(p, "").do(ctx, []phase{
		{"P0", "check", (*run).checkRollout},
		{"P4", "commit", func(r *run, ctx context.Context) error {
			return r.change(ctx, func(p pointer.Pointer) pointer.Pointer { return ended(p, r.Settings.Who, why, time.Now()) }, RolloutBack, why)
		}},
		{"P5", "converge", (*run).converge},
		{"P7", "report", (*run).report},
	})
}

// ErrNoRollout says that the pointer carries none.
var ErrNoRollout = errors.New("no rollout is open; nothing was changed")

// checkRollout reads what there is. It takes no lock: a driver that hangs must not be in the way.
func (r *run) checkRollout(ctx context.Context) error {
	var err error
	if r.before, err = r.Store.Read(ctx); err != nil {
		return fmt.Errorf("read the pointer: %w", err)
	}
	if r.before.Rollout == nil {
		return exit.With(exit.Unchanged, ErrNoRollout)
	}
	if r.past, err = r.Store.History(ctx); err != nil {
		return fmt.Errorf("read what was committed: %w", err)
	}
	r.next = r.before
	r.members.limit = r.before.Highest() + slack
	r.members.keep(r.wanted())
	return nil
}

// change ends a rollout, as it is when this is written.
func (r *run) change(ctx context.Context, to func(pointer.Pointer) pointer.Pointer, event, why string) error {
	had := *r.before.Rollout
	is, err := change(ctx, r.Store, func(p *pointer.Pointer) error {
		if p.Rollout == nil || p.Rollout.Generation != had.Generation {
			return taken(*p, r.before)
		}
		had = *p.Rollout
		*p = to(*p)
		return nil
	})
	if err != nil {
		return err
	}
	r.next = is
	r.members.mu.Lock()
	r.members.moved = true
	r.members.mu.Unlock()
	r.over(ctx)
	r.tellOf(event, why, had)
	return nil
}

// takeOver makes this run the driver.
func (r *run) takeOver(ctx context.Context, force bool) error {
	if err := r.checkRollout(ctx); err != nil {
		return err
	}
	if err := TryAll(ctx, r.Checks); err != nil {
		return err
	}
	is, err := change(ctx, r.Store, func(p *pointer.Pointer) error {
		now := second(time.Now())
		switch ro := p.Rollout; {
		case ro == nil || ro.Generation != r.before.Rollout.Generation:
			return taken(*p, r.before)
		case Driven(*ro, now) && !force:
			return exit.With(exit.Conflict, advice.Try(fmt.Errorf("%s, and %s drives it; nothing was changed", SayRollout(*p, now), ro.By),
				"once more after %s; or ebs-release rollout pause, then resume; or --force, when that one is surely gone",
				ro.Until.Format(time.RFC3339)))
		default:
			next := *ro
			if next.Paused != "" { // a person has seen whom it has cost, and goes on
				next.Lost = nil
			}
			next.Paused, next.By, next.Until = "", r.Settings.Who, lease(now)
			if next.Until.Equal(ro.Until) { // each driver has its own
				next.Until = next.Until.Add(time.Second)
			}
			p.Rollout = &next
			return nil
		}
	})
	if err != nil {
		return err
	}
	r.members.from = is.Revision // before anybody lists them
	r.drives(is)
	if err := r.members.list(ctx, is); err != nil { // the driver looks again; and what it has, it gives back
		r.say(Event{Kind: KindWarning, Text: err.Error()})
	}
	r.tellRollout(RolloutResumed, "")
	return nil
}

// Pause stops a rollout at its step: whoever drives it sees that and ends.
func Pause(ctx context.Context, store Store, why string) (pointer.Pointer, error) {
	return change(ctx, store, func(p *pointer.Pointer) error {
		if p.Rollout == nil {
			return exit.With(exit.Unchanged, ErrNoRollout)
		}
		ro := *p.Rollout
		ro.Paused, ro.Until = clip(why), second(time.Now())
		p.Rollout = &ro
		return nil
	})
}

// Hold keeps publishes back, or lets them go on (nil). A rollout that is open goes on.
func Hold(ctx context.Context, store Store, hold *pointer.Hold) (pointer.Pointer, error) {
	return change(ctx, store, func(p *pointer.Pointer) error {
		switch {
		case p.Generation == 0:
			return exit.With(exit.Unchanged, errors.New("nothing has been published yet, so there is no pointer that could carry a hold"))
		case hold == nil && p.Hold == nil:
			return exit.With(exit.Unchanged, errors.New("no hold is on; nothing was changed"))
		}
		p.Hold = hold
		return nil
	})
}

// change writes a change of the pointer as it is, again where others are faster.
func change(ctx context.Context, store Store, do func(*pointer.Pointer) error) (is pointer.Pointer, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
	defer cancel()
	for gap := firstGap / 10; ; gap = min(gap*2, longestGap) {
		is, err = store.Read(ctx)
		if err != nil {
			return is, fmt.Errorf("read the pointer: %w", err)
		}
		next := is
		if err := do(&next); err != nil {
			return is, err
		}
		if err = store.CompareAndSwap(ctx, is, next); err == nil {
			next.Revision = is.Revision + 1
			return next, nil
		}
		if !errors.Is(err, pointer.ErrConflict) {
			if now, readErr := store.Read(ctx); readErr == nil && now.Generation == next.Generation && sameRollout(now, next) &&
				now.Revision > is.Revision && !sameRollout(is, next) { // only its answer was lost
				return now, nil
			}
			return is, err
		}
		if sleep(ctx, gap) != nil {
			return is, err
		}
	}
}

// leftTime is how long a publish may be silent after its commit, where no lock shows that it is
// still at work.
const leftTime = 10 * time.Minute

// IsLeft says whether whoever moved the pointer has not come back to say how it ended: it was
// killed, and its members may be behind.
func IsLeft(p pointer.Pointer, past []pointer.Entry, now time.Time, force bool) bool {
	left := false
	for _, e := range past {
		if e.Generation != p.Generation {
			continue
		}
		switch {
		case e.Committed && e.Verb == "":
			left = force || now.Sub(e.Time) > leftTime
		case e.Verb == verbConverge && e.Result == ResultConverged:
			left = false
		}
	}
	return left
}

// SayHold is one line; "" when publishes may go on.
func SayHold(h *pointer.Hold, now time.Time) string {
	if !h.At(now) {
		return ""
	}
	ends := ""
	if !h.Until.IsZero() {
		ends = " until " + h.Until.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("publishes are on hold%s, by %s since %s: %s", ends, h.By, h.Since.UTC().Format(time.RFC3339), h.Why)
}
