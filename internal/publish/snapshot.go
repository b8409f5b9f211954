package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/words"
)

// mostSteps is how many packs an instance that launches may need at most, and how many a pointer
// goes on listing. A longer way is made short by one pack.
const mostSteps = 48

// pack is P2: what leads from the release before to this one goes into the store. Where no packs
// lead from the snapshot that there is to this release, it gets a snapshot of its own before
// anybody is told of it.
func (r *run) pack(ctx context.Context) error {
	reached, err := r.leadHere(ctx)
	if err != nil {
		return err
	}
	if reached {
		of := r.before.Holds()
		r.next.Snapshots, r.next.SnapshotOf = r.before.Snapshots, &of
		return nil
	}
	r.putBackLater(r.tree.Previous) // the snapshot has to say what it is, so the release is current before the commit
	if err := r.activateHere(ctx); err != nil {
		return err
	}
	id, err := r.snapshot(ctx)
	if err != nil {
		return err
	}
	r.asked, r.next.Snapshots = true, map[string]string{r.Settings.Region: id}
	r.undo = append(r.undo, undo{"snapshot " + id + " is deleted", func(ctx context.Context) error { return r.Snapshots.Delete(ctx, id) }})
	return nil
}

// leadHere fills in the edges of the next pointer, and says whether they lead there from the
// snapshot that the pointer names now.
func (r *run) leadHere(ctx context.Context) (bool, error) {
	r.next.Keys = r.Keys
	// A snapshot from before the keys does not have them: who boots from it could believe no pack.
	if r.before.Generation == 0 || !slices.Equal(r.before.Keys, r.Keys) {
		return false, nil
	}
	r.next.Edges = slices.Clone(r.before.Edges)
	if r.next.Digest != r.before.Digest {
		if _, err := r.addPack(ctx, r.before.Release, r.before.Digest); err != nil {
			return false, err
		}
	}
	from := r.before.Holds()
	way, found := wayFrom(from.Digest, r.next)
	if found && len(way) <= mostSteps {
		return true, nil
	}
	return r.addPack(ctx, from.Release, from.Digest)
}

// wayFrom returns the packs that lead from a release to the pointer's.
func wayFrom(digest string, to pointer.Pointer) ([]pointer.Edge, bool) {
	return to.Way(func(held string) bool { return held == digest })
}

// hasHere says whether a release is on the release volume. It may have been pruned, or the volume
// be another server's: there are other ways.
func (r *run) hasHere(id, digest string) bool {
	have, err := r.Tree.ManifestDigest(id)
	return err == nil && have == digest
}

// addPack makes a pack from a release that is still on the release volume. false: it is not.
func (r *run) addPack(ctx context.Context, id, digest string) (bool, error) {
	if digest == r.next.Digest || !r.hasHere(id, digest) {
		return false, nil
	}
	edge, err := r.Packs.Make(ctx, id, r.next.Release)
	if err != nil {
		return false, err
	}
	r.next.Edges = append(r.next.Edges, edge)
	if over := len(r.next.Edges) - mostSteps; over > 0 {
		r.next.Edges = r.next.Edges[over:]
	}
	r.packed += edge.Bytes
	r.say(Event{Kind: KindNote, Text: fmt.Sprintf("%s from release %s, in the store", words.Bytes(edge.Bytes), id)})
	return true, nil
}

// activateHere makes the release current on the release volume.
func (r *run) activateHere(ctx context.Context) error {
	if r.here {
		return nil
	}
	if err := r.Tree.Activate(ctx, r.next.Release, r.next.Digest, r.next.Generation); err != nil {
		return fmt.Errorf("make %s current on the release volume: %w", r.next.Release, err)
	}
	r.here = true
	return nil
}

// snapshot freezes, snapshots and thaws.
func (r *run) snapshot(ctx context.Context) (id string, err error) {
	id, frozen, err := r.Snapshots.Create(ctx, r.next.Generation, r.next.Release)
	if err != nil {
		return "", err
	}
	r.frozen = frozen
	r.say(Event{Kind: KindNote, Text: fmt.Sprintf("%s, writers waited %v", id, frozen.Round(time.Millisecond))})
	return id, nil
}

// snapshotLater is P6: what launches from here on needs no packs. The release is live without it,
// so its failure is a warning.
func (r *run) snapshotLater(ctx context.Context) error {
	if r.next.SnapshotOf == nil {
		return nil
	}
	err := r.activateHere(ctx)
	id := ""
	if err == nil {
		id, err = r.snapshot(ctx)
	}
	if err == nil {
		r.prune(ctx) // while nobody else takes anything in
		r.giveBack() // another publish need not wait for EBS
		err = r.completeAndName(ctx, id)
	}
	if err != nil && ctx.Err() != nil {
		return err
	}
	if err != nil {
		r.say(Event{Kind: KindWarning, Text: fmt.Sprintf("generation %d is live, and has no snapshot of its own: %v. "+
			"What launches catches up by packs, and the next publish makes one", r.next.Generation, err)})
	}
	return nil
}

// snapshotAnyway asks for the snapshot where members were left behind: those that launch need it
// all the more.
func (r *run) snapshotAnyway(outer context.Context, err error) {
	if !r.moved() || exit.Code(err) != exit.NotConverged || outer.Err() != nil {
		return
	}
	r.members.enter("P6", "snapshot")
	ctx, end := r.untilInsisted(outer)
	defer end()
	_ = r.snapshotLater(ctx) // it has said what is wrong, and err is worse
}

func (r *run) completeAndName(ctx context.Context, id string) error {
	wait, cancel := context.WithTimeout(ctx, r.Settings.SnapshotDeadline)
	defer cancel()
	defer context.AfterFunc(r.outer, cancel)() // nobody depends on it: one signal is enough
	if err := r.Snapshots.WaitCompleted(wait, id, r.members.snapshotProgress); err != nil {
		if wait.Err() == nil { // it will not be completed any more
			err = errors.Join(err, r.Snapshots.Delete(ctx, id))
		}
		return err
	}
	r.members.snapshotProgress("100%")
	return r.name(ctx, id)
}

// rebase takes over what another run wrote about the same generation meanwhile, such as the
// snapshot that it waited for. false: the release itself is another one, or no packs lead on from
// there.
func (r *run) rebase(ctx context.Context) bool {
	is, err := r.Store.Read(ctx)
	if err != nil || is.Generation != r.before.Generation || is.Release != r.before.Release || is.Digest != r.before.Digest ||
		!slices.Equal(is.Keys, r.before.Keys) {
		return false
	}
	if r.next.SnapshotOf != nil {
		of := is.Holds()
		if _, found := wayFrom(of.Digest, r.next); !found {
			return false
		}
		r.next.Snapshots, r.next.SnapshotOf = is.Snapshots, &of
	}
	r.before = is
	return true
}

// nameTries is how often another write of the pointer may come first.
const nameTries = 10

// name writes a completed snapshot of this run's release into the pointer, as it is now: another
// publish may have moved it on.
func (r *run) name(ctx context.Context, id string) error {
	held := pointer.Held{Generation: r.next.Generation, Release: r.next.Release, Digest: r.next.Digest}
	var err error
	for range nameTries {
		var is pointer.Pointer
		if is, err = r.Store.Read(ctx); err != nil {
			return err
		}
		next := is
		next.Snapshots = map[string]string{r.Settings.Region: id}
		_, leads := wayFrom(held.Digest, is)
		switch {
		case is.Generation == held.Generation && is.Release == held.Release:
			next.SnapshotOf = nil
		case is.Holds().Generation >= held.Generation || !leads:
			r.say(Event{Kind: KindNote, Text: fmt.Sprintf("%s is not named: generation %d was published meanwhile", id, is.Generation)})
			return nil
		default:
			next.SnapshotOf = &held
		}
		if err = r.Store.CompareAndSwap(ctx, is, next); err == nil {
			r.next.Snapshots, r.next.SnapshotOf = next.Snapshots, nil
			r.say(Event{Kind: KindNote, Text: fmt.Sprintf("instances that launch from now on start from %s", id)})
			return nil
		}
		if !errors.Is(err, pointer.ErrConflict) {
			return err
		}
	}
	return err
}
