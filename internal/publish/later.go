package publish

import (
	"context"
	"errors"
	"fmt"

	"ebs-release/internal/advice"
	"ebs-release/internal/exit"
	"ebs-release/internal/volume"
)

// AfterSnapshot says what becomes of the snapshot that P6 makes.
type AfterSnapshot int

// P6 by default leaves the snapshot to EBS, and to whoever comes next.
const (
	SnapshotLeft   AfterSnapshot = iota // asked for, and named by whoever comes next
	SnapshotWaited                      // waited for and named; an error (exit.NoSnapshot) when that fails
	SnapshotNone                        // none is made
)

// snapshotLater is P6: a snapshot of the release is asked for, so that what launches later needs no
// packs. The release is live without it: nobody waits unless the operator wants to, and otherwise
// its failure is a warning.
func (r *run) snapshotLater(ctx context.Context) error {
	if r.next.SnapshotOf == nil || r.unclaimed {
		return nil
	}
	if r.Settings.Snapshot == SnapshotNone {
		r.say(Event{Kind: KindNote, Text: "none is made: " + r.startsFrom() + " serves what launches"})
		return nil
	}
	id, err := r.ask(ctx)
	if err != nil {
		return r.withoutSnapshot(ctx, err)
	}
	r.prune(ctx) // while nobody else takes anything in
	if r.Settings.Snapshot == SnapshotLeft {
		r.pending = id
		return nil
	}
	return r.waitForSnapshot(ctx, id)
}

// waitForSnapshot gives back what another publish needs, which need not wait for EBS, too.
func (r *run) waitForSnapshot(ctx context.Context, id string) error {
	r.giveBack()
	return r.withoutSnapshot(ctx, r.completeAndName(ctx, id))
}

// nameCompleted names the newest snapshot that is completed, and returns all.
func (r *run) nameCompleted(ctx context.Context) ([]Snapshot, error) {
	all, err := r.Snapshots.List(ctx)
	if err == nil {
		err = r.nameNewest(ctx, all)
	}
	return all, err
}

// snapshotIfNone is P6 of a converge: it names what was made meanwhile, and asks for a snapshot
// where nobody has.
func (r *run) snapshotIfNone(ctx context.Context) error {
	if r.next.SnapshotOf == nil {
		return nil
	}
	all, err := r.nameCompleted(ctx)
	if err != nil {
		return r.withoutSnapshot(ctx, err)
	}
	switch id := r.onItsWay(all); {
	case r.next.SnapshotOf == nil:
		return nil
	case id == "":
		if err := r.claim(ctx); err != nil {
			return r.withoutSnapshot(ctx, err)
		}
		return r.snapshotLater(ctx)
	case r.Settings.Snapshot == SnapshotWaited:
		return r.waitForSnapshot(ctx, id)
	default:
		r.pending = id
		return nil
	}
}

// withoutSnapshot says what follows from an error of P6.
func (r *run) withoutSnapshot(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case r.Settings.Snapshot == SnapshotWaited && r.outer.Err() != nil:
		return exit.With(exit.Interrupted, fmt.Errorf("interrupted; generation %d is live: %w", r.next.Generation, err))
	case ctx.Err() != nil:
		return err
	case r.Settings.Snapshot == SnapshotWaited:
		return exit.With(exit.NoSnapshot, advice.Try(advice.Errorf("generation %d is live, but its snapshot is not there: %w. "+
			"What launches catches up by packs", r.next.Generation, err),
			"ebs-release snapshot"))
	case volume.IsSnapshotLimit(err):
		r.say(Event{Kind: KindNote, Text: "EBS takes no further snapshot of the volume yet: the next publish asks again"})
		return nil
	}
	warning := advice.Try(advice.Errorf("generation %d is live, and has no snapshot of its own: %w. "+
		"What launches catches up by packs", r.next.Generation, err), "ebs-release snapshot; the next publish makes one, too")
	r.say(Event{Kind: KindWarning, Text: warning.Error()})
	return nil
}

// ask has EBS make a snapshot of the release.
func (r *run) ask(ctx context.Context) (id string, err error) {
	// A volume ahead of the pointer could boot nobody: a publish that failed has raised its fence.
	fence, err := r.Tree.Generation()
	if err == nil && fence > r.next.Generation {
		err = fmt.Errorf("the release volume has had generation %d, which is above %d; the next publish makes a snapshot",
			fence, r.next.Generation)
	}
	if err == nil {
		err = r.activateHere(ctx)
	}
	if err != nil {
		return "", err
	}
	if id, err = r.snapshot(ctx, r.Settings.Snapshot == SnapshotWaited); err != nil {
		return "", err
	}
	return id, r.Store.Asked(ctx, r.next.Generation, r.Settings.Region, id)
}

// snapshotAnyway asks for the snapshot where members were left behind: those that launch need it
// all the more.
func (r *run) snapshotAnyway(outer context.Context, err error) {
	if !r.moved() || exit.Code(err) != exit.NotConverged || outer.Err() != nil {
		return
	}
	r.hookAfter(outer, err)
	r.members.enter("P6", "snapshot")
	ctx, end := r.untilInsisted(outer)
	defer end()
	_ = r.snapshotLater(ctx) // it has said what is wrong, and err is worse
}

// completeAndName waits for EBS. A snapshot that is only late stays: whoever comes next names it.
func (r *run) completeAndName(ctx context.Context, id string) error {
	wait, cancel := context.WithTimeout(ctx, r.Settings.SnapshotDeadline)
	defer cancel()
	defer context.AfterFunc(r.outer, cancel)() // nobody depends on it: one signal is enough
	if err := r.Snapshots.WaitCompleted(wait, id, r.members.snapshotProgress); err != nil {
		if wait.Err() == nil { // it will not be completed any more
			return errors.Join(err, r.Snapshots.Delete(ctx, id))
		}
		return advice.Errorf("%w; it goes on, and whoever comes next names it", err)
	}
	r.members.snapshotProgress("100%")
	return r.name(ctx, Snapshot{ID: id, Holds: r.next.Own(), Completed: true})
}

// onItsWay is a snapshot of this run's release that EBS is making; "": there is none.
func (r *run) onItsWay(all []Snapshot) string {
	for _, s := range all {
		if s.Pending && s.Holds == r.next.Own() && known(r.past, s) {
			return s.ID
		}
	}
	return ""
}

// listLater lists snapshots while something else is done. What cannot be listed is not named this
// time, and that is all.
func (r *run) listLater(ctx context.Context) (listed func() []Snapshot) {
	done := make(chan []Snapshot, 1)
	go func() { // ends with ctx
		all, err := r.Snapshots.List(ctx)
		if err != nil && ctx.Err() == nil {
			r.say(Event{Kind: KindWarning, Text: fmt.Sprintf("what launches starts from the snapshot that the pointer names: %v", err)})
		}
		done <- all
	}()
	return func() []Snapshot { return <-done }
}

// nameNewest makes the pointer name the newest snapshot of a list.
func (r *run) nameNewest(ctx context.Context, all []Snapshot) error {
	s, found := newest(r.next, r.past, all)
	if !found {
		return nil
	}
	return r.name(ctx, s)
}

// name writes a completed snapshot into the pointer, and takes over what that says then.
func (r *run) name(ctx context.Context, s Snapshot) error {
	is, err := name(ctx, r.Store, r.Settings.Region, s)
	switch {
	case err != nil:
		return err
	case is.Snapshots[r.Settings.Region] != s.ID:
		r.say(Event{Kind: KindNote, Text: fmt.Sprintf("%s is not named: generation %d was published meanwhile", s.ID, is.Generation)})
		return nil
	}
	r.say(Event{Kind: KindNote,
		Text: fmt.Sprintf("instances that launch from now on start from %s of generation %d", s.ID, s.Holds.Generation)})
	if is.Generation == r.next.Generation {
		r.next.Snapshots, r.next.SnapshotOf, r.next.Revision = is.Snapshots, is.SnapshotOf, is.Revision
	} else if s.Holds == r.next.Own() { // it is this release's, and named for a later one
		r.startsWith(s.ID, nil)
	}
	return nil
}
