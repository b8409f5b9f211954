package publish

import (
	"context"
	"fmt"
	"time"

	"ebs-release/internal/advice"
)

// templatesTime is for all calls about launch templates.
const templatesTime = 3 * time.Minute

// FollowTemplates makes the launch templates name the snapshot that the pointer names.
func (p *Publisher) FollowTemplates(ctx context.Context, say func(wrong bool, text string)) error {
	if p.Templates == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, templatesTime)
	defer cancel()
	return p.Templates.Follow(ctx, p.Store.Read, say)
}

// followTemplates comes last, when the members have what they need: a template is as good as the
// snapshot that it names, from which what launches catches up.
func (r *run) followTemplates(outer context.Context) {
	if !r.committed && !r.begun || outer.Err() != nil {
		return
	}
	ctx, end := r.untilInsisted(outer)
	defer end()
	err := r.FollowTemplates(ctx, func(wrong bool, text string) {
		kind := KindNote
		if wrong {
			kind = KindWarning
		}
		r.say(Event{Kind: kind, Text: text})
	})
	if err != nil {
		warning := advice.Also(advice.Errorf("generation %d is live: %w", r.now().Generation, err), "ebs-release converge, which tries again")
		r.say(Event{Kind: KindWarning, Text: fmt.Sprint(warning)})
	}
}
