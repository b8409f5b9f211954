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
