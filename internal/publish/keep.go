package publish

import (
	"maps"
	"slices"

	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
)

// verbConverge is in the history of a run that committed nothing itself.
const verbConverge = "converge"

// isPublished says whether a line of the history is of a run that committed a generation.
func isPublished(e pointer.Entry) bool { return e.Committed && e.Verb != verbConverge }

// Committed are the generations that the history knows to be committed.
func Committed(entries []pointer.Entry) (all []gc.Generation) {
	for _, e := range entries {
		if !isPublished(e) {
			continue
		}
		g := gc.Generation{Number: e.Generation, Release: e.Release}
		g.Snapshots = slices.Concat(slices.Sorted(maps.Values(e.Snapshots)), slices.Sorted(maps.Values(e.Asked)))
		all = append(all, g)
	}
	return all
}

// Kept is how many releases are to be kept, and by which generations. While a rollout is open both
// of its releases are: either may be everybody's next.
func Kept(keep int, committed []gc.Generation, p pointer.Pointer) (int, []gc.Generation) {
	ro := p.Rollout
	if ro == nil {
		return keep, committed
	}
	return max(keep, 2), append(committed[:len(committed):len(committed)], gc.Generation{Number: ro.Generation, Release: ro.Release})
}

// wanted is what is to be kept: by what is committed now.
func (r *run) wanted() gc.Wanted {
	all := Committed(r.past)
	if r.committed {
		all = append(all[:len(all):len(all)], gc.Generation{Number: r.next.Generation, Release: r.next.Release})
	}
	keep, all := Kept(r.Settings.Keep, all, r.now())
	return gc.Wanted{Keep: keep, Committed: gc.Releases(all)}
}
