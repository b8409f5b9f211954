package publish

import (
	"context"
	"fmt"
	"strings"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/words"
)

// finish makes the release everybody's: the rollout is over.
func (r *run) finish(ctx context.Context) error {
	had := *r.next.Rollout
	err := r.write(ctx, func(p *pointer.Pointer) { *p = finished(*p, time.Now()) })
	if err != nil {
		return err
	}
	r.say(Event{Kind: KindNote,
		Text: fmt.Sprintf("generation %d is current: release %s, %s", had.Generation, had.Release, r.startsFrom())})
	r.over(ctx)
	r.tellOf(RolloutFinished, "", had)
	return nil
}

// finished is a pointer whose rollout has come through.
func finished(p pointer.Pointer, now time.Time) pointer.Pointer {
	ro, holds := *p.Rollout, p.Holds()
	p.Generation, p.Release, p.Digest = ro.Generation, ro.Release, ro.Digest
	p.SnapshotOf, p.Rollout = &holds, nil
	p.By, p.Message, p.Created = ro.By, ro.Message, second(now)
	return p
}

// ended is a pointer whose rollout is taken back: its stable release is everybody's, under a
// generation that is above what anybody was given.
func ended(p pointer.Pointer, by, why string, now time.Time) pointer.Pointer {
	p.Generation = p.Highest() + 1
	p.Rollout = nil
	p.By, p.Message, p.Created = by, clip(why), second(now)
	return p
}

// back is how a rollout ends that failed: one compare-and-swap, and the members of the share flip
// back to a tree that they still have. The error comes when they are there.
func (r *run) back(ctx context.Context, why string) error {
	had := *r.next.Rollout
	err := r.write(ctx, func(p *pointer.Pointer) { *p = ended(*p, r.Settings.Who, "rolled back: "+why, time.Now()) })
	if err != nil {
		return err
	}
	r.over(ctx)
	r.tellOf(RolloutBack, why, had)
	r.ended = exit.With(exit.RolledBack, fmt.Errorf("the rollout of generation %d was rolled back at step %d of %d, as generation %d: %s",
		had.Generation, had.Step+1, len(had.Steps), r.next.Generation, why))
	return nil
}

// over: the pointer names one release for all again. The release volume follows, where it is here
// and nobody else works on it: else the next publish brings it there.
func (r *run) over(ctx context.Context) {
	r.committed = true
	r.members.keep(r.wanted())
	store := r.next.Store
	err := r.claim(ctx)
	r.next.Store = store
	if err == nil {
		err = r.activateHere(ctx)
	}
	if err != nil {
		r.unclaimed = true
		r.say(Event{Kind: KindWarning, Text: fmt.Sprintf("the release volume stays as it is until the next publish or converge: %v", err)})
	}
}

// stand pauses the rollout where it is.
func (r *run) stand(ctx context.Context, why error) error {
	text := words.OneLine(why)
	if err := r.write(ctx, func(p *pointer.Pointer) {
		p.Rollout.Paused, p.Rollout.Until = clip(text), second(time.Now())
	}); err != nil {
		return err
	}
	r.tellRollout(RolloutPaused, text)
	return paused(*r.next.Rollout, text)
}

// paused is how a run ends whose rollout stands.
func paused(ro pointer.Rollout, why string) error {
	return exit.With(exit.Paused, advice.Try(fmt.Errorf("the rollout of generation %d is paused at step %d of %d: %s",
		ro.Generation, ro.Step+1, len(ro.Steps), why), "ebs-release rollout resume, finish or abort"))
}

// leave gives the rollout up where it is: whoever comes next may take it over at once.
func (r *run) leave() error {
	ro := r.next.Rollout
	err := r.write(context.Background(), func(p *pointer.Pointer) { p.Rollout.Until = second(time.Now()) })
	if isCoded(err) {
		return err
	}
	return exit.With(exit.Interrupted, advice.Try(fmt.Errorf("interrupted; the rollout of generation %d stays at step %d of %d (%s), "+
		"and its members on their releases. ebs-release-rollout.timer takes it up by itself",
		ro.Generation, ro.Step+1, len(ro.Steps), ro.Steps[ro.Step]), "ebs-release rollout resume, pause or abort"))
}

// clip keeps a text within what a pointer takes.
func clip(text string) string {
	const most = 2000
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
