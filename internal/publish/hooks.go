package publish

import (
	"context"
	"fmt"
)

// hookBefore runs the operator's programs before anything is changed.
func (r *run) hookBefore(ctx context.Context) error {
	if r.Hooks == nil {
		return nil
	}
	next := r.next // what is known by now
	next.By, next.Message = r.Settings.Who, r.Settings.Message
	if err := r.Hooks.Before(ctx, r.source, next); err != nil {
		return fmt.Errorf("hook before the publish: %w", err)
	}
	return nil
}

// hookAfter runs the operator's programs once a generation is committed. It goes on after an interrupt: the commit is not undone either.
func (r *run) hookAfter(ctx context.Context, err error) {
	if r.Hooks == nil || !r.committed || r.before.Generation == r.next.Generation {
		return
	}
	if r.hookErr = r.Hooks.After(context.WithoutCancel(ctx), r.outcome(err)); r.hookErr != nil {
		r.say(Event{Kind: KindWarning, Text: fmt.Sprintf("hook after the publish: %v", r.hookErr)})
	}
}
