package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/exit"
	"ebs-release/internal/volume"
	"ebs-release/internal/words"
)

// How P5 waits between two listings: roundTime is how long a round waits for members at work before
// it lists again without them (they go on), so that a slow member holds nobody up; the gap after a
// round that left someone behind grows.
const (
	roundTime  = 2 * time.Second
	firstGap   = 500 * time.Millisecond
	longestGap = 5 * time.Second
	tellEvery  = 15 * time.Second // who is waited for is said again
)

// converge is P5: list, activate on all that are behind, list again, until two listings at least
// Settle apart show no member behind. Members that follow are only listed.
func (r *run) converge(ctx context.Context) error {
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, r.Settings.ConvergeDeadline)
	defer cancel()
	var listErr error
	var clean time.Time // the first of the listings in a row that show no member behind
	told := time.Now()
	for gap := firstGap; ; {
		listed := time.Now()
		var behind int
		behind, listErr = r.round(ctx)
		wait := gap
		switch {
		case isCoded(listErr):
			return listErr
		case listErr != nil || behind > 0:
			clean = time.Time{}
			if listErr == nil && r.members.open() == 0 {
				wait = 0 // all are up to date: look at once whether that is all
			}
			gap = min(gap*3/2, longestGap)
			if time.Since(told) >= tellEvery {
				told = time.Now()
				r.tellWaiting(ctx)
			}
		case clean.IsZero():
			clean, wait = listed, r.Settings.Settle
		case listed.Sub(clean) >= r.Settings.Settle:
			r.live = clean.Sub(r.started)
			return r.left()
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

// tellWaiting says who is waited for, why, and for how long at most.
func (r *run) tellWaiting(ctx context.Context) {
	waiting := r.members.having(append(slices.Clone(openStandings), StandsBooting)...)
	if len(waiting) == 0 {
		return
	}
	end, _ := ctx.Deadline()
	more := time.Until(end).Round(time.Second)
	r.say(Event{Kind: KindNote, Text: fmt.Sprintf("waiting for %s; %v more at most", r.members.group(waiting), more)})
}

// round is one listing and the work that follows from it. It returns how many members were behind
// as listed.
func (r *run) round(ctx context.Context) (behind int, err error) {
	is, err := r.members.overtaken(ctx, r.next)
	switch {
	case isCoded(err):
		return 0, err
	case err == nil && r.next.Rollout != nil && is.Rollout != nil: // else without a store it goes on
		r.next.Rollout = is.Rollout // another one drives it, and gives the release to more
	}
	if err := r.members.list(ctx, r.next); err != nil {
		r.say(Event{Kind: KindWarning, Text: err.Error()})
		return 0, err
	}
	if err := r.members.tooMany(); err != nil && !r.members.driving() { // a rollout has its own limit
		r.members.wait() // those under way are not stopped
		if err := r.members.tooMany(); err != nil {
			return 0, exit.With(exit.NotConverged,
				advice.Errorf("generation %d is committed, but %w; run `ebs-release converge` to go on", r.next.Generation, err))
		}
	}
	behind = r.members.open()
	if r.Dialer == nil { // they come by themselves, and say so
		r.say(Event{Kind: KindProgress, Progress: r.members.progress()})
		return behind, nil
	}
	r.firstWave(ctx)
	due := r.members.due(append(slices.Clone(openStandings), StandsLeaving)...)
	r.members.each(ctx, due, patience{most: roundTime}, func(ctx context.Context, m *member) error {
		if err := r.members.stage(ctx, m, r.next); err != nil {
			return err
		}
		return r.members.activate(ctx, m, r.next, nil)
	})
	if err := r.members.report(ctx, r.next); err != nil {
		if !isCoded(err) {
			r.say(Event{Kind: KindWarning, Text: err.Error()})
		}
		return behind, err
	}
	return behind, nil
}

// isCoded: it ends P5.
func isCoded(err error) bool {
	_, coded := errors.AsType[*exit.Error](err)
	return coded
}

// firstWave activates on all members that have the tree already, and on no other, so that the time
// in which members run different releases is that of the activations alone.
func (r *run) firstWave(ctx context.Context) {
	if r.window != nil {
		return
	}
	r.window = &Window{}
	r.members.each(ctx, r.members.staged(), patience{most: roundTime}, func(ctx context.Context, m *member) error {
		return r.members.activate(ctx, m, r.next, r.window)
	})
	if window := r.mixed(); window.Members > 0 {
		r.say(Event{Kind: KindWindow, Window: &window,
			Text: fmt.Sprintf("%s flipped within %v", words.Count(window.Members, "member"), time.Duration(window.Milliseconds)*time.Millisecond)})
	}
}

// mixed is the window so far: for how long members ran different releases.
func (r *run) mixed() (window Window) {
	r.members.mu.Lock()
	defer r.members.mu.Unlock()
	if r.window != nil {
		window = *r.window
	}
	return window
}

// left is an error when no member is behind, and yet not all are current: this run can do nothing
// more for them.
func (r *run) left() error {
	hook, ahead := r.members.having(StandsHookFailed), r.members.having(StandsAhead)
	var others []string
	if len(hook) > 0 {
		others = append(others,
			fmt.Sprintf("a hook failed on %d of them: %s; %s", len(hook), r.members.group(hook), r.whoRunsAgain()))
	}
	if len(ahead) > 0 {
		others = append(others, fmt.Sprintf("%d of them are ahead of it: %s; the pointer is an old copy, or somebody wrote the tag %s; "+
			"`ebs-release publish` again goes above them", len(ahead), r.members.group(ahead), volume.TagGeneration))
	}
	if other := r.members.having(StandsOtherStore); len(other) > 0 {
		others = append(others, fmt.Sprintf("%d of them belong to another pointer store: %s; look at `pointer` in their agent's settings",
			len(other), r.members.group(other)))
	}
	if len(others) == 0 {
		return nil
	}
	return exit.With(exit.NotConverged, fmt.Errorf("no member is behind generation %d, but %s", r.next.Generation, strings.Join(others, "; ")))
}

func (r *run) whoRunsAgain() string {
	if r.Dialer == nil {
		return "they run it again by themselves, and `ebs-release converge` waits for that"
	}
	return "`ebs-release converge` runs it again"
}

// notConverged names the members that are behind, those of one cause together.
func (r *run) notConverged(listErr error) error {
	behind := r.members.having(append(slices.Clone(openStandings), StandsAhead, StandsOtherStore, StandsBooting)...)
	p := r.members.progress()
	err := fmt.Errorf("generation %d is committed, but after %v only %d/%d members are on it; behind: %s; run `ebs-release converge` to go on",
		r.next.Generation, r.Settings.ConvergeDeadline, p.Done, p.Total, r.members.group(behind))
	if len(behind) == 0 && listErr != nil {
		err = advice.Errorf("generation %d is committed, but the members could not be listed, or reported, to the end: %w; "+
			"run `ebs-release converge` to go on", r.next.Generation, listErr)
	} else if len(behind) == 0 {
		err = fmt.Errorf("generation %d is committed, but within %v no two listings %v apart showed all members on it; "+
			"run `ebs-release converge` to go on", r.next.Generation, r.Settings.ConvergeDeadline, r.Settings.Settle)
	}
	return err
}

// report is P7: what is no longer needed goes; the outcome is the report.
func (r *run) report(ctx context.Context) error {
	if !r.pruned { // P6 did, before it gave its locks back
		r.prune(ctx)
	}
	return nil
}

func (r *run) prune(ctx context.Context) {
	r.pruned = true
	// What members still hold is what the next pack for them starts from.
	wanted := r.wanted()
	wanted.Held = r.members.releases()
	removed, err := r.Tree.Prune(ctx, wanted)
	if err != nil { // the publish is done all the same
		r.say(Event{Kind: KindWarning, Text: fmt.Sprintf("prune the release volume: %v", err)})
	}
	if len(removed) > 0 {
		r.say(Event{Kind: KindNote, Text: "pruned " + strings.Join(removed, ", ")})
	}
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
