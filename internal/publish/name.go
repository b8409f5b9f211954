package publish

import (
	"context"
	"errors"
	"maps"
	"slices"

	"ebs-release/internal/pointer"
)

// newest finds the snapshot that a pointer should name: completed, newer than what it names, and
// with packs that lead on from there. Its tags alone are not believed, as who may tag could claim
// another release: the history has to know it, with the same generation, release and digest.
func newest(p pointer.Pointer, past []pointer.Entry, all []Snapshot) (best Snapshot, found bool) {
	best.Holds.Generation = p.Holds().Generation
	for _, s := range all {
		if s.Completed && s.Holds.Generation > best.Holds.Generation && known(past, s) && leads(s.Holds, p) {
			best, found = s, true
		}
	}
	return best, found
}

// known: a publish of this generation has asked for it, and it counted (the volume was frozen).
func known(past []pointer.Entry, s Snapshot) bool {
	for _, e := range past {
		if isPublished(e) && s.Holds == (pointer.Held{Generation: e.Generation, Release: e.Release, Digest: e.Digest}) {
			return slices.Contains(slices.Collect(maps.Values(e.Asked)), s.ID)
		}
	}
	return false
}

// leads: who boots from a snapshot of this release comes to the pointer's, by not too many packs.
func leads(from pointer.Held, to pointer.Pointer) bool {
	way, found := wayFrom(from.Digest, to)
	return found && len(way) <= mostSteps && from.Generation <= to.Generation
}

// nameTries is how often another write of the pointer may come first.
const nameTries = 10

// name makes the pointer name a completed snapshot, as the pointer is now: another publish may have
// moved it on. It returns the pointer as it is then; where that names another snapshot, this one
// was of no more use.
func name(ctx context.Context, store Store, region string, s Snapshot) (is pointer.Pointer, err error) {
	for range nameTries {
		if is, err = store.Read(ctx); err != nil {
			return is, err
		}
		next := is
		next.Snapshots = map[string]string{region: s.ID}
		switch {
		case is.Generation == s.Holds.Generation && is.Release == s.Holds.Release:
			next.SnapshotOf = nil
		case is.Holds().Generation >= s.Holds.Generation || !leads(s.Holds, is):
			return is, nil
		default:
			next.SnapshotOf = &s.Holds
		}
		if err = store.CompareAndSwap(ctx, is, next); err == nil {
			next.Revision = is.Revision + 1
			return next, nil
		}
		if !errors.Is(err, pointer.ErrConflict) {
			return is, err
		}
	}
	return is, err
}

// Name makes the pointer name the newest completed snapshot, when it is newer than the one that it
// names. It needs no lock: the pointer is compared and swapped. found: it did.
func (p *Publisher) Name(ctx context.Context) (s Snapshot, found bool, err error) {
	is, err := p.Store.Read(ctx)
	if err != nil || is.SnapshotOf == nil {
		return Snapshot{}, false, err
	}
	past, err := p.Store.History(ctx)
	if err != nil {
		return Snapshot{}, false, err
	}
	all, err := p.Snapshots.List(ctx)
	if err != nil {
		return Snapshot{}, false, err
	}
	if s, found = newest(is, past, all); !found {
		return Snapshot{}, false, nil
	}
	is, err = name(ctx, p.Store, p.Settings.Region, s)
	return s, err == nil && is.Snapshots[p.Settings.Region] == s.ID, err
}
