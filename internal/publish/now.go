package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"ebs-release/internal/exit"
)

// Snapshot is P6 alone: it names the newest snapshot that EBS has completed since, and where there
// is none it makes one of the current release, waits for it and names it. anew: it makes one in any
// case.
func (p *Publisher) Snapshot(ctx context.Context, anew bool) (Outcome, error) {
	waits := *p
	waits.Settings.Snapshot = SnapshotWaited
	return newRun(&waits, "").do(ctx, []phase{
		{"P0", "check", (*run).checkSnapshot},
		{"P6", "snapshot", func(r *run, ctx context.Context) error { return r.snapshotNow(ctx, anew) }},
	})
}

// checkSnapshot is P0 of `snapshot`: no member is asked anything.
func (r *run) checkSnapshot(ctx context.Context) error {
	err := r.checkPublished(ctx,
		exit.With(exit.Unchanged, errors.New("nothing has been published yet, and the first publish makes its snapshot itself")))
	if err != nil {
		return err
	}
	r.next, r.committed = r.before, true
	return nil
}

func (r *run) snapshotNow(ctx context.Context, anew bool) error {
	had := r.next.Snapshots[r.Settings.Region]
	all, err := r.nameCompleted(ctx)
	if err != nil {
		return r.withoutSnapshot(ctx, err)
	}
	named := r.next.Snapshots[r.Settings.Region]
	there := slices.ContainsFunc(all, func(s Snapshot) bool { return s.ID == named && s.Completed })
	id := r.onItsWay(all)
	switch {
	case anew:
		id = ""
	case named != had:
		return nil
	case r.next.SnapshotOf == nil && there:
		r.say(Event{Kind: KindNote,
			Text: fmt.Sprintf("%s is of generation %d, the current one: there is nothing to do", named, r.next.Generation)})
		return nil
	}
	if id == "" {
		if err := r.claim(ctx); err != nil {
			return err
		}
		if id, err = r.ask(ctx); err != nil {
			return r.withoutSnapshot(ctx, err)
		}
	}
	return r.waitForSnapshot(ctx, id)
}
