package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/exit"
)

// How P5 waits between two listings: roundTime is how long a round waits for members at work before it lists again without them (they go
// on), so that a slow member holds nobody up; the gap after a round that left someone behind grows.
const (
	roundTime  = 2 * time.Second
	firstGap   = 500 * time.Millisecond
	longestGap = 5 * time.Second
)

// converge is P5: list, activate on all that are behind, list again, until two listings at least Settle apart show no member behind.
func (r *run) converge(ctx context.Context) error {
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, r.Settings.ConvergeDeadline)
	defer cancel()
	var listErr error
	var clean time.Time // the first of the listings in a row that show no member behind
	for gap := firstGap; ; {
		listed := time.Now()
		var behind int
		behind, listErr = r.round(ctx)
		var coded *exit.Error
		wait := gap
		switch {
		case errors.As(listErr, &coded):
			return listErr
		case listErr != nil || behind > 0:
			clean = time.Time{}
			if listErr == nil && r.members.progress().Done == r.members.progress().Total {
				wait = 0 // all were brought on: look at once whether that is all
			}
			gap = min(gap*3/2, longestGap)
		case clean.IsZero():
			clean, wait = listed, r.Settings.Settle
		case listed.Sub(clean) >= r.Settings.Settle:
			return r.hooks()
		default:
			wait = r.Settings.Settle - listed.Sub(clean)
		}
		if err := sleep(ctx, wait); err != nil {
			break
		}
	}
	interrupted := outer.Err()
	r.endWork() // what P3 left under way, too
	if interrupted != nil {
		return interrupted
	}
	return exit.With(exit.NotConverged, r.notConverged(listErr))
}

// round is one listing and the work that follows from it. It returns how many members were behind as listed.
func (r *run) round(ctx context.Context) (behind int, err error) {
	is, err := r.Store.Read(ctx)
	if err == nil && is.Generation > r.next.Generation {
		return 0, exit.With(exit.Conflict, fmt.Errorf("generation %d was published meanwhile by %s, which has to converge now", is.Generation, is.By))
	}
	if err := r.members.list(ctx, r.next.Generation); err != nil {
		r.say(Event{Kind: KindWarning, Text: err.Error()})
		return 0, err
	}
	if err := r.members.tooMany(); err != nil {
		r.members.wait() // those under way are not stopped
		if err := r.members.tooMany(); err != nil {
			return 0, exit.With(exit.NotConverged, fmt.Errorf("generation %d is committed, but %w; `ebs-release converge` goes on", r.next.Generation, err))
		}
	}
	behind = len(r.members.having(StandsBehind, StandsFailed, StandsBooting))
	r.firstWave(ctx)
	r.members.each(ctx, r.members.due(StandsBehind, StandsFailed, StandsLeaving), patience{most: roundTime}, func(ctx context.Context, m *member) error {
		if err := r.members.stage(ctx, m, r.next); err != nil {
			return err
		}
		return r.members.activate(ctx, m, r.next, nil)
	})
	if err := r.members.report(ctx, r.next); err != nil {
		r.say(Event{Kind: KindWarning, Text: err.Error()})
		return behind, err
	}
	return behind, nil
}

// firstWave activates on all members that have the tree already, and on no other, so that the time in which members run different
// releases is that of the activations alone.
func (r *run) firstWave(ctx context.Context) {
	if r.window != nil {
		return
	}
	r.window = &Window{}
	r.members.each(ctx, r.members.staged(), patience{most: roundTime}, func(ctx context.Context, m *member) error {
		return r.members.activate(ctx, m, r.next, r.window)
	})
	if wave := r.mixed(); wave.Members > 0 {
		r.say(Event{Kind: KindWindow, Window: &wave, Text: fmt.Sprintf("%d members flipped within %v", wave.Members, time.Duration(wave.Milliseconds)*time.Millisecond)})
	}
}

// mixed is the window so far.
func (r *run) mixed() (wave Window) {
	r.members.mu.Lock()
	defer r.members.mu.Unlock()
	if r.window != nil {
		wave = *r.window
	}
	return wave
}

// hooks is an error when a member is on the generation, but one of its programs that had to follow has failed: it may serve the release before.
func (r *run) hooks() error {
	var words []string
	r.members.mu.Lock()
	for _, m := range r.members.all {
		if m.hook != nil && !m.gone {
			words = append(words, fmt.Sprintf("%s: %s", m.InstanceID, OneLine(m.hook)))
		}
	}
	r.members.mu.Unlock()
	if len(words) == 0 {
		return nil
	}
	slices.Sort(words)
	return exit.With(exit.NotConverged, fmt.Errorf("generation %d is on all members, but a hook failed on %d of them: %s", r.next.Generation, len(words), strings.Join(words, "; ")))
}

// notConverged names the members that are behind, those of one cause together.
func (r *run) notConverged(listErr error) error {
	behind := r.members.having(StandsBehind, StandsFailed, StandsBooting)
	p := r.members.progress()
	err := fmt.Errorf("generation %d is committed, but after %v only %d/%d members are on it; behind: %s; `ebs-release converge` goes on",
		r.next.Generation, r.Settings.ConvergeDeadline, p.Done, p.Total, group(behind))
	if len(behind) == 0 && listErr != nil {
		err = fmt.Errorf("generation %d is committed, but the members could not be listed, or reported, to the end: %w; `ebs-release converge` goes on", r.next.Generation, listErr)
	} else if len(behind) == 0 {
		err = fmt.Errorf("generation %d is committed, but within %v no two listings %v apart showed all members on it; `ebs-release converge` goes on",
			r.next.Generation, r.Settings.ConvergeDeadline, r.Settings.Settle)
	}
	return err
}

// report is P6: what is no longer needed goes; the outcome is the report.
func (r *run) report(ctx context.Context) error {
	// What members still hold is what the next transfer to them builds on.
	removed, err := r.Tree.Prune(ctx, r.Settings.Keep, r.members.releases(r.next)...)
	if err != nil { // the publish is done all the same
		r.say(Event{Kind: KindWarning, Text: fmt.Sprintf("prune the release volume: %v", err)})
	}
	if len(removed) > 0 {
		r.say(Event{Kind: KindNote, Text: "pruned " + strings.Join(removed, ", ")})
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	clock := time.NewTimer(d)
	defer clock.Stop()
	select {
	case <-clock.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
