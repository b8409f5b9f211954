package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/pointer"
)

// mostSteps is how many packs an instance that launches may need at most, and how many a pointer
// goes on listing. A longer way is made short by one pack.
const mostSteps = 48

// SnapshotRequest is what a snapshot is made for.
type SnapshotRequest struct {
	Holds     pointer.Held // what is current on the volume; for its tags
	Committed bool         // the pointer names it already
	Patient   bool         // EBS's limits (one in 15 s, so many pending) are waited out; else they are an error
	Frozen    func() error // called while nobody can write: an error ends it
	Note      func(string) // told why there is another try
}

// pack is P2: what leads from the release before to this one goes into the store. Where no packs
// lead from a snapshot that there is to this release, it gets a snapshot of its own before anybody
// is told of it.
func (r *run) pack(ctx context.Context) error {
	reached, err := r.leadHere(ctx)
	if err != nil || reached {
		return err
	}
	if r.rolls() && !r.goesBack {
		return advice.Try(errors.New("no packs lead from a snapshot to this release, and instances that launch during a rollout need them"),
			"ebs-release publish --steps '', once, which gives the release a snapshot of its own")
	}
	r.putBackLater(r.tree.Previous) // the snapshot has to say what it is, so the release is current before the commit
	if err := r.activateHere(ctx); err != nil {
		return err
	}
	id, err := r.snapshot(ctx, true)
	if err != nil {
		return err
	}
	r.asked = true
	r.startsWith(id, nil)
	r.undo = append(r.undo, undo{"snapshot " + id + " is deleted", func(ctx context.Context) error { return r.Snapshots.Delete(ctx, id) }})
	return nil
}

// startsWith makes a snapshot the one that the next pointer names. of: what it holds; nil: the
// pointer's own release.
func (r *run) startsWith(id string, of *pointer.Held) {
	r.next.Snapshots, r.next.SnapshotOf = map[string]string{r.Settings.Region: id}, of
}

// leadHere fills in the edges of the next pointer, and the newest snapshot that they lead there
// from. false: there is none.
func (r *run) leadHere(ctx context.Context) (bool, error) {
	r.next.Keys, r.next.KeysSince = r.Keys, r.before.KeysSince
	if same := slices.Equal(r.before.Keys, r.Keys); !same {
		r.next.KeysSince = r.next.Generation
		// A snapshot of before that has none of the keys: who boots from it could believe no pack.
		if !slices.ContainsFunc(r.before.Keys, func(key string) bool { return slices.Contains(r.Keys, key) }) {
			return false, nil
		}
	}
	if r.before.Generation == 0 {
		return false, nil
	}
	listed := r.listLater(ctx)
	r.next.Edges = slices.Clone(r.before.Edges)
	if r.next.Digest != r.before.Digest {
		if _, err := r.addPack(ctx, r.before.Release, r.before.Digest); err != nil {
			return false, err
		}
	}
	if err := r.leadRollout(ctx); err != nil {
		return false, err
	}
	if err := r.leadFollowers(ctx); err != nil {
		return false, err
	}
	from := r.before.Holds()
	r.next.Snapshots, r.next.SnapshotOf = r.before.Snapshots, &from
	if s, found := newest(r.next, r.past, listed()); found {
		r.startsWith(s.ID, &s.Holds)
		return true, nil
	}
	way, found := wayFrom(from.Digest, r.next)
	if found && len(way) <= mostSteps {
		return true, nil
	}
	reached, err := r.addPack(ctx, from.Release, from.Digest)
	if reached || err != nil || !r.rolls() || r.goesBack {
		return reached, err
	}
	// Nothing of a rollout waits for a snapshot: a pack from nothing leads from all that there are.
	return true, r.listPack(ctx, "")
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
	return true, r.listPack(ctx, id)
}

// listPack makes a pack, which the next pointer lists.
func (r *run) listPack(ctx context.Context, id string) error {
	return r.listEdge(ctx, id, r.next.Release)
}

func (r *run) listEdge(ctx context.Context, id, to string) error {
	edge, err := r.Packs.Make(ctx, id, to)
	if err != nil {
		return err
	}
	r.next.Edges = append(r.next.Edges, edge)
	if over := len(r.next.Edges) - mostSteps; over > 0 {
		r.next.Edges = r.next.Edges[over:]
	}
	r.packed += edge.Bytes
	r.say(Event{Kind: KindNote, Text: packText(edge, id)})
	return nil
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

// snapshot freezes, snapshots and thaws. Whoever boots from it refuses a volume that is not what
// the pointer says.
func (r *run) snapshot(ctx context.Context, patient bool) (id string, err error) {
	own := r.next.Own()
	id, frozen, err := r.Snapshots.Create(ctx, SnapshotRequest{
		Holds: own, Committed: r.committed, Patient: patient,
		Frozen: func() error { return r.Tree.CheckActive(own.Release, own.Generation) },
		Note:   func(text string) { r.say(Event{Kind: KindWarning, Text: text}) },
	})
	if err != nil {
		return "", err
	}
	r.frozen = frozen
	r.say(Event{Kind: KindNote, Text: fmt.Sprintf("%s, writers waited %v", id, frozen.Round(time.Millisecond))})
	return id, nil
}

// rebase takes over what another run wrote about the same generation meanwhile, such as a newer
// snapshot that it named. false: the release itself is another one.
func (r *run) rebase(ctx context.Context) bool {
	is, err := r.Store.Read(ctx)
	if err != nil || is.Generation != r.before.Generation || is.Release != r.before.Release || is.Digest != r.before.Digest ||
		!slices.Equal(is.Keys, r.before.Keys) || !r.goesBack && (is.Rollout != nil || is.Hold.At(time.Now())) {
		return false
	}
	r.next.Hold = is.Hold
	if of := is.Holds(); r.next.SnapshotOf != nil && of.Generation >= r.next.SnapshotOf.Generation {
		if way, found := wayFrom(of.Digest, r.next); found && len(way) <= mostSteps {
			r.next.Snapshots, r.next.SnapshotOf = is.Snapshots, &of
		}
	}
	r.before = is
	return true
}
