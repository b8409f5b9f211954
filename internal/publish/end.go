package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/exit"
)

// insisted is an error when whoever runs this wants an end at once.
func (r *run) insisted() error {
	select {
	case <-r.Insist: // never, if it is nil
		return context.Canceled
	default:
		return nil
	}
}

// untilInsisted is ctx for the time after the commit.
func (r *run) untilInsisted(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	if r.Insist != nil {
		go func() {
			select {
			case <-r.Insist:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	return ctx, cancel
}

func (r *run) sayItGoesOn() {
	r.say(Event{Kind: KindWarning, Text: fmt.Sprintf("a signal came after the commit: the members are still brought to generation %d. "+
		"A second one (Ctrl-C) ends that; `ebs-release converge` takes it up again", r.next.Generation)})
}

// cleanUpTime is how long taking back may last; it goes on after an interrupt.
const cleanUpTime = 30 * time.Second

// takeBack undoes what was done when the commit did not come.
func (r *run) takeBack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
	defer cancel()
	var errs []error
	for len(r.undo) > 0 {
		last := r.undo[len(r.undo)-1]
		r.undo = r.undo[:len(r.undo)-1]
		if err := last.do(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", last.what, err))
			continue
		}
		r.say(Event{Kind: KindNote, Text: last.what})
	}
	return errors.Join(errs...)
}

// code marks err with the exit code that tells what is left of the run.
func (r *run) code(interrupted, err, left error) error {
	var coded *exit.Error
	switch {
	case exit.Code(err) == exit.Interrupted && errors.As(err, &coded): // it says what follows
		return err
	case left != nil:
		return exit.With(exit.Failed, fmt.Errorf("%w; and this could not be taken back: %w", err, left))
	case r.begun && !r.committed && !errors.As(err, &coded):
		return exit.With(exit.Failed, advice.Try(advice.Errorf("the rollout of generation %d is open, and stays where it is: %w",
			r.next.Highest(), err), "ebs-release rollout status, then rollout resume or abort"))
	case interrupted != nil && r.committed:
		return exit.With(exit.Interrupted,
			fmt.Errorf("interrupted; generation %d is committed, `ebs-release converge` brings the members to it: %w", r.next.Generation, err))
	case interrupted != nil:
		return exit.With(exit.Interrupted, fmt.Errorf("interrupted, nothing was changed: %w", err))
	case errors.As(err, &coded):
		return err
	case r.committed:
		return exit.With(exit.NotConverged, err)
	}
	return exit.With(exit.Unchanged, fmt.Errorf("nothing was changed: %w", err))
}
