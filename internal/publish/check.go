package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/exit"
	"ebs-release/internal/generation"
	"ebs-release/internal/pointer"
)

// check is P0: lock, read the pointer, and try everything that can fail later. It changes
// nothing but the release volume, where that is behind the pointer.
func (r *run) check(ctx context.Context) error {
	if size := len(r.Settings.Message); size > pointer.MaxMessage {
		return exit.With(exit.Usage, fmt.Errorf("the message has %d bytes, want at most %d; nothing was changed", size, pointer.MaxMessage))
	}
	if err := pointer.CheckRegion(r.Settings.Region); err != nil {
		return err
	}
	if err := r.lockAndRead(ctx); err != nil {
		return err
	}
	if err := r.mayBegin(time.Now()); err != nil {
		return err
	}
	if err := TryAll(ctx, r.Checks); err != nil {
		return err
	}
	if err := r.catchUpHere(ctx); err != nil {
		return err
	}
	fence, err := r.limitReports()
	if err != nil {
		return err
	}
	if err := r.members.list(ctx, r.before); err != nil {
		return err
	}
	if err := r.enoughFiles(); err != nil {
		return err
	}
	// Above the fence of the volume, too (an earlier publish may have stopped before its commit),
	// and above whatever a member reports (the pointer may have been restored from an old copy):
	// nothing that took a generation ever has to take a lower one.
	highest := max(r.before.Highest(), fence, r.Settings.Above, r.members.highest())
	if highest > generation.Max-2 { // one more is for taking back
		return fmt.Errorf("generation %d cannot be followed by another one: the pointer has %d, the release volume %d; "+
			"somebody wrote a number that no publish made", highest, r.before.Highest(), fence)
	}
	r.next.Generation = highest + 1
	if r.next.Store == "" {
		r.next.Store = r.before.Store
	}
	if r.before.Hold.At(time.Now()) {
		r.next.Hold = r.before.Hold
	}
	if err := r.reach(ctx); err != nil {
		return err
	}
	return r.mayRoll(ctx)
}

// checkAndHook is P0 of what is going to change something: the operator's programs run when all
// else is fine.
func (r *run) checkAndHook(ctx context.Context) error {
	if err := r.check(ctx); err != nil {
		return err
	}
	return r.hookBefore(ctx)
}

// checkConverge is P0 of `converge`: there is no tree to take in, and whether there is a snapshot
// to make is seen when the members are live.
func (r *run) checkConverge(ctx context.Context) error {
	err := r.checkPublished(ctx,
		advice.Try(errors.New("nothing has been published yet, so there is nothing to converge to"), "ebs-release publish SOURCE"))
	if err != nil {
		return err
	}
	if _, err := r.limitReports(); err != nil {
		return err
	}
	if err := r.members.list(ctx, r.before); err != nil {
		return err
	}
	if err := r.enoughFiles(); err != nil {
		return err
	}
	r.next, r.committed = r.before, true
	return nil
}

// checkPublished begins P0 of a verb that goes on with what is published; where that is nothing, it
// ends with nothing.
func (r *run) checkPublished(ctx context.Context, nothing error) error {
	if err := r.lockAndRead(ctx); err != nil {
		return err
	}
	if r.before.Generation == 0 {
		return nothing
	}
	if err := TryAll(ctx, r.Checks); err != nil {
		return err
	}
	r.converges = true
	return r.catchUpHere(ctx)
}

// limitReports sets up to which generation a member's report is believed, and returns the fence of
// the release volume. No member gets a generation that this fence has not had before. So a number
// far above fence and pointer was written by somebody else, unless both are old copies: then the
// operator says so with --above.
func (r *run) limitReports() (fence int64, err error) {
	fence, err = r.Tree.Generation()
	if err != nil {
		return 0, fmt.Errorf("read the generation of the release volume: %w", err)
	}
	r.members.limit = min(max(r.before.Highest(), fence, r.Settings.Above), generation.Max) + slack
	return fence, nil
}

func (r *run) lockAndRead(ctx context.Context) error {
	unlock, err := r.Store.Lock(ctx, r.Settings.Who)
	switch {
	case errors.Is(err, pointer.ErrLocked):
		return exit.With(exit.Conflict, err)
	case err != nil:
		return fmt.Errorf("lock the pointer store: %w", err)
	}
	r.unlock = append(r.unlock, unlock)
	if r.before, err = r.Store.Read(ctx); err != nil {
		return fmt.Errorf("read the pointer: %w", err)
	}
	if r.past, err = r.Store.History(ctx); err != nil {
		return fmt.Errorf("read what was committed: %w", err)
	}
	r.members.keep(r.wanted())
	if only := r.Settings.IfGeneration; only != nil && r.before.Generation != *only {
		return exit.With(exit.Conflict, fmt.Errorf("%w: it is at generation %d, not %d; nothing was changed; see `ebs-release history`",
			pointer.ErrConflict, r.before.Generation, *only))
	}
	return nil
}

// TryAll tries some checks, in order, until one fails.
func TryAll(ctx context.Context, checks []Check) error {
	for _, c := range checks {
		if err := c.Do(ctx); err != nil {
			return fmt.Errorf("check %s: %w", c.Name, err)
		}
	}
	return nil
}

// enoughFiles: a session is five descriptors here at most (three pipes, ssh's process, one to
// spare), and stays open until the end. With too few, members would never converge.
func (r *run) enoughFiles() error {
	if r.Dialer == nil {
		return nil
	}
	count := r.members.total()
	wanted := uint64(64 + 5*count)
	if r.Settings.OpenFiles == 0 || r.Settings.OpenFiles >= wanted {
		return nil
	}
	return advice.Try(fmt.Errorf("%d members want %d open files, and this process may have %d", count, wanted, r.Settings.OpenFiles),
		"ulimit -n %d in the shell that starts it, or LimitNOFILE=%d in its unit", wanted, wanted)
}

// unlessForced makes a warning of an error about all members, when this run goes on without any:
// what launches gets the release all the same, and P5 tries the others until its deadline.
func (r *run) unlessForced(err error) error {
	if !r.force {
		return advice.Try(err, "ebs-release doctor; or --force, which publishes for what launches from now on")
	}
	warning := advice.Errorf("%w; it goes on all the same: what launches gets the release", err)
	r.say(Event{Kind: KindWarning, Text: warning.Error()})
	return nil
}

// slowConnect is how much longer than the others a member may take to be connected to before P0
// goes on without it.
const slowConnect = 2 * time.Second

// reach connects to the members that could take the release now. No member is fine, and so is one
// that cannot be reached; if that is true of all of them, the mistake is more likely here (a wrong
// key, a firewall), and only force goes on.
func (r *run) reach(ctx context.Context) error {
	if r.Dialer == nil {
		r.sayNext()
		return nil
	}
	ready := r.members.having(StandsBehind, StandsCurrent, StandsAhead, StandsHookFailed)
	connecting, enough := context.WithCancel(ctx)
	r.members.each(connecting, ready, patience{rest: slowConnect}, r.members.connect)
	enough()
	r.members.wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	failed := r.members.withError(ready)
	if len(failed) > 0 && len(failed) == len(ready) {
		// They may only be on their way out, which a listing shows a little later.
		if err := sleep(ctx, r.Settings.Settle); err != nil {
			return err
		}
		if err := r.members.list(ctx, r.before); err != nil {
			return err
		}
		failed = r.members.staying(failed)
	}
	if len(failed) > 0 && len(failed) == len(ready) {
		none := fmt.Errorf("none of %d members can be reached, such as %w", len(failed), r.members.trouble(failed[0]))
		if err := r.unlessForced(none); err != nil {
			return err
		}
	}
	r.sayNext()
	return nil
}

func (r *run) sayNext() {
	r.say(Event{Kind: KindNote,
		Text: fmt.Sprintf("generation %d is current, %d is next; %s", r.before.Generation, r.next.Generation, r.members.count())})
}
