package publish

import (
	"context"
	"fmt"

	"ebs-release/internal/pointer"
)

// hookBefore runs the operator's programs before anything is changed.
func (r *run) hookBefore(ctx context.Context) error {
	if r.Hooks == nil {
		return nil
	}
	if err := r.Hooks.Before(ctx, r.source, r.nextSoFar()); err != nil {
		return fmt.Errorf("hook before the publish: %w", err)
	}
	return nil
}

// nextSoFar is what is known of the next pointer before its commit.
func (r *run) nextSoFar() pointer.Pointer {
	next := r.next
	next.By, next.Message = r.Settings.Who, r.Settings.Message
	return next
}

// verifyAndStage is P3 of a publish. No member is asked to fetch what the operator's programs do
// not let through. A rollback has no such step: what it goes back to was let through once, and the
// way back must not depend on them.
func (r *run) verifyAndStage(ctx context.Context) error {
	if r.Hooks != nil {
		if err := r.Hooks.Verify(ctx, r.nextSoFar()); err != nil {
			return fmt.Errorf("hook before the commit: %w", err)
		}
	}
	return r.stage(ctx)
}

// hookAfter runs the operator's programs once, when the members are on a committed generation or
// when the run has failed, also after a signal: the commit is not undone either. A signal that
// comes while they run ends them.
func (r *run) hookAfter(outer context.Context, err error) {
	if r.Hooks == nil || !r.moved() || r.hooked {
		return
	}
	r.hooked = true
	ctx, end := r.untilInsisted(outer)
	defer end()
	if r.insisted() != nil { // that ended the members' part
		ctx = context.WithoutCancel(outer)
	}
	if outer.Err() == nil {
		defer context.AfterFunc(outer, end)()
	}
	if r.hookErr = r.Hooks.After(ctx, r.outcome(err)); r.hookErr != nil {
		r.say(Event{Kind: KindWarning, Text: fmt.Sprintf("hook after the publish: %v", r.hookErr)})
	}
}
