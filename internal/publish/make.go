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

// ingest is P1: the source becomes a release on the release volume, and current there, so that the
// snapshot says what it is.
func (r *run) ingest(ctx context.Context) error {
	if err := r.claim(ctx); err != nil {
		return err
	}
	previous, err := r.Tree.Current()
	if err != nil {
		return fmt.Errorf("read which release is current on the release volume: %w", err)
	}
	if r.tree, err = r.Tree.Ingest(ctx, r.source, time.Now().UTC(), r.wanted()); err != nil {
		return err
	}
	r.next.Release, r.next.Digest = r.tree.ID, r.tree.Digest
	r.putBackLater(previous)
	if err := r.Tree.Activate(ctx, r.tree.ID, r.tree.Digest, r.next.Generation); err != nil {
		return fmt.Errorf("make %s current on the release volume: %w", r.tree.ID, err)
	}
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

// snapshot is P2: freeze, snapshot, thaw.
func (r *run) snapshot(ctx context.Context) error {
	id, frozen, err := r.Snapshots.Create(ctx, r.next.Generation, r.next.Release)
	if err != nil {
		return err
	}
	r.frozen = frozen
	r.next.Snapshots = map[string]string{r.Settings.Region: id}
	r.undo = append(r.undo, undo{"snapshot " + id + " is deleted", func(ctx context.Context) error { return r.Snapshots.Delete(ctx, id) }})
	r.say(Event{Kind: KindNote, Text: fmt.Sprintf("%s, writers waited %v", id, frozen.Round(time.Millisecond))})
	return nil
}

// transfer is P3: the snapshot completes while the members get the tree, which none of them
// activates yet.
func (r *run) transfer(ctx context.Context) error {
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
		ctx, cancel := context.WithTimeout(ctx, r.Settings.SnapshotDeadline)
		defer cancel()
		if err := r.Snapshots.WaitCompleted(ctx, r.next.Snapshots[r.Settings.Region], r.members.snapshotProgress); err != nil {
			return err
		}
		r.members.snapshotProgress("100%")
		close(completed)
		return nil
	})
	do(func() error { return r.stageAll(ctx, completed) })
	both.Wait()
	return err
}

// slowTransfer: a member that needs more than twice the time of the others, and this, gets the tree
// while P5 goes on with the rest.
const slowTransfer = 5 * time.Second

// stageAll gives the tree to every member that can take it. One that fails is tried again in P5;
// when none takes it (without force), or more fail than may, the publish stops here, before
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
		r.members.each(ctx, todo, patience{rest: slowTransfer, until: completed}, func(ctx context.Context, m *member) error {
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
	if err := ctx.Err(); err != nil {
		return err
	}
	r.next.Schema = 1
	r.next.Created = time.Now().UTC().Truncate(time.Second)
	r.next.By, r.next.Message = r.Settings.Who, r.Settings.Message
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime) // not interruptible: it is done or not done
	defer cancel()
	err := r.Store.CompareAndSwap(ctx, r.before, r.next)
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
		if is.Generation != r.next.Generation || is.Snapshots[r.Settings.Region] != r.next.Snapshots[r.Settings.Region] {
			return err
		}
	}
	r.committed, r.undo = true, nil
	r.members.keep(r.wanted())
	r.say(Event{Kind: KindNote, Text: fmt.Sprintf("generation %d is current: release %s, snapshot %s",
		r.next.Generation, r.next.Release, r.next.Snapshots[r.Settings.Region])})
	return nil
}
