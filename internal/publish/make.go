package publish

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/words"
)

// ingest is P1: the source becomes a release on the release volume, not yet current there.
func (r *run) ingest(ctx context.Context) error {
	if err := r.claim(ctx); err != nil {
		return err
	}
	// The next pack for a member starts from what it holds, and one for who boots from the
	// snapshot.
	wanted := r.wanted()
	wanted.Held = r.members.releases()
	if of := r.before.SnapshotOf; of != nil {
		wanted.Held[of.Release] = "the newest snapshot has it"
	}
	var err error
	if r.tree, err = r.Tree.Ingest(ctx, r.source, time.Now().UTC(), wanted); err != nil {
		return err
	}
	r.next.Release, r.next.Digest = r.tree.ID, r.tree.Digest
	if r.tree.Digest == r.before.Digest {
		r.say(Event{Kind: KindNote, Text: fmt.Sprintf("the source equals generation %d, which is published again", r.before.Generation)})
	}
	for _, line := range r.tree.LeftBehind {
		r.say(Event{Kind: KindWarning, Text: line})
	}
	r.say(Event{Kind: KindNote,
		Text: fmt.Sprintf("release %s: %s, %s; %s", r.tree.ID, words.Count(r.tree.Files, "file"), words.Bytes(r.tree.Bytes), r.tree.Changes)})
	return nil
}

// claim is the first step of P1: from here to the end nobody else publishes to this volume.
func (r *run) claim(ctx context.Context) error {
	if r.Claim == nil {
		return nil
	}
	store, unlock, err := r.Claim(ctx)
	if err != nil {
		return err
	}
	r.unlock = append(r.unlock, unlock)
	r.next.Store = store
	return nil
}

// putBackLater: on failure before the commit the release before is made current again on the
// release volume, under one more generation, as the fence there never goes down. The next publish
// starts above it. The tree that was taken in stays until it is pruned. When there was no release
// before, the new one stays current, and a next publish of the same source takes it as it is.
func (r *run) putBackLater(previous string) {
	if previous == "" || previous == r.tree.ID {
		return
	}
	r.undo = append(r.undo, undo{"release " + previous + " is current on the release volume again", func(ctx context.Context) error {
		digest, err := r.Tree.ManifestDigest(previous)
		if err != nil {
			return err
		}
		return r.Tree.Activate(ctx, previous, digest, r.next.Generation+1)
	}})
}

// stage is P3: the members fetch the tree, which none of them activates yet; and the snapshot
// completes meanwhile, where the commit has to wait for it. (It is a verb here: the stages of a
// boot are other things.)
func (r *run) stage(ctx context.Context) error {
	var (
		both   sync.WaitGroup
		failed sync.Once
		err    error
	)
	do := func(part func() error) {
		both.Go(func() {
			if partErr := part(); partErr != nil {
				failed.Do(func() { err = partErr; r.stop() }) // the other part ends with it
			}
		})
	}
	completed := make(chan struct{})
	do(func() error {
		if !r.asked {
			close(completed)
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, r.Settings.SnapshotDeadline)
		defer cancel()
		if err := r.Snapshots.WaitCompleted(ctx, r.next.Snapshots[r.Settings.Region], r.members.snapshotProgress); err != nil {
			return err
		}
		r.members.snapshotProgress("100%")
		close(completed)
		return nil
	})
	do(func() error {
		if r.Dialer == nil {
			r.say(Event{Kind: KindNote, Text: "there is nothing to stage: the members follow the pointer, and fetch by themselves"})
			return nil
		}
		return r.stageAll(ctx, completed)
	})
	both.Wait()
	return err
}

// slowStage: a member that needs more than twice the time of the others, and this, gets the tree
// while P5 goes on with the rest.
const slowStage = 5 * time.Second

// stageAll has the tree fetched by every member that can take it. One that fails is tried again in
// P5; when none takes it (without force), or more fail than may, the publish stops here, before
// anything is visible.
func (r *run) stageAll(ctx context.Context, completed <-chan struct{}) error {
	err := r.members.list(ctx, r.next)
	for try := 1; err != nil && try < stageTries; try++ { // P0 could list them: what Auto Scaling says now may be old
		if err := sleep(ctx, stagePause); err != nil {
			return err
		}
		err = r.members.list(ctx, r.next)
	}
	if err != nil {
		return err
	}
	ready := r.members.having(openStandings...)
	r.members.forget(ready) // what P0 could not reach is tried anew
	for todo := ready; ; {
		r.members.each(ctx, todo, patience{rest: slowStage, until: completed}, func(ctx context.Context, m *member) error {
			return r.members.stageWithRetries(ctx, m, r.next)
		})
		if err := ctx.Err(); err != nil {
			return err
		}
		if r.members.tooMany() == nil {
			break
		}
		r.members.wait()                                    // those under way are not stopped
		if err := r.members.list(ctx, r.next); err != nil { // some may only be gone
			return err
		}
		if err := r.members.tooMany(); err != nil {
			return err
		}
		todo = r.members.unstaged(ready)
	}
	failed := r.members.failed(ready)
	if len(failed) == 0 || len(failed) < len(ready) {
		return nil
	}
	if err := r.members.list(ctx, r.next); err != nil { // some may only be gone
		return err
	}
	if failed = r.members.failed(failed); len(failed) > 0 {
		return r.unlessForced(fmt.Errorf("none of %d members could take the release, such as %w", len(failed), r.members.trouble(failed[0])))
	}
	return nil
}

// commit is P4: from here on an instance that boots gets the new generation.
func (r *run) commit(ctx context.Context) error {
	if err := errors.Join(ctx.Err(), r.packsAreFresh()); err != nil {
		return err
	}
	r.next.Created = second(time.Now())
	r.next.By, r.next.Message = r.Settings.Who, r.Settings.Message
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime) // not interruptible: it is done or not done
	defer cancel()
	err := r.Store.CompareAndSwap(ctx, r.before, r.next)
	for tries := 1; errors.Is(err, pointer.ErrConflict) && tries < nameTries && r.rebase(ctx); tries++ {
		err = r.Store.CompareAndSwap(ctx, r.before, r.next)
	}
	switch {
	case errors.Is(err, pointer.ErrConflict):
		return exit.With(exit.Conflict, fmt.Errorf("nothing was activated: %w", err))
	case err != nil:
		// The answer may be lost and the pointer moved all the same.
		is, readErr := r.Store.Read(ctx)
		if readErr != nil || errors.Is(err, pointer.ErrUnclear) {
			r.undo = nil // the pointer may name the snapshot
			return exit.With(exit.Failed, fmt.Errorf("it is not known whether generation %d is committed, look with `ebs-release status`: %w",
				r.next.Generation, errors.Join(err, readErr)))
		}
		if is.Generation != r.next.Generation || is.Release != r.next.Release ||
			is.Snapshots[r.Settings.Region] != r.next.Snapshots[r.Settings.Region] {
			return err
		}
	}
	r.committed, r.undo = true, nil
	r.members.keep(r.wanted())
	r.members.moved = true
	r.say(Event{Kind: KindNote,
		Text: fmt.Sprintf("generation %d is current: release %s, %s", r.next.Generation, r.next.Release, r.startsFrom())})
	if err := r.activateHere(ctx); err != nil { // the members need it no more; P6 does
		r.say(Event{Kind: KindWarning, Text: err.Error()})
	}
	return nil
}

// startsFrom says what an instance that launches now gets.
func (r *run) startsFrom() string {
	text := "snapshot " + r.next.Snapshots[r.Settings.Region]
	if of := r.next.SnapshotOf; of != nil {
		text += fmt.Sprintf(" of generation %d and packs from there", of.Generation)
	}
	return text
}
