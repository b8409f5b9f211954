// Package gc decides what is kept, and why: trees on a release volume or a member's, snapshots, and
// what a rollback can go back to. One rule for all of them: what was committed latest is needed
// most, by the history and not by the time in a name; what was never committed goes first; and what
// somebody holds stays. It does nothing itself: callers tell it what there is, and do what it says.
package gc

import (
	"fmt"
	"slices"
	"time"
)

// Generation is one that was committed, as the history has it.
type Generation struct {
	Number    int64
	Release   string
	Snapshots []string // ids, one for each region
}

// Releases returns the releases of committed generations, each once, those of the latest generation
// first.
func Releases(committed []Generation) []string {
	var ids []string
	for _, g := range latestFirst(committed) {
		if g.Release != "" && !slices.Contains(ids, g.Release) {
			ids = append(ids, g.Release)
		}
	}
	return ids
}

// Back returns the generations that a rollback can go back to: those before the current one, with
// another release, the latest first.
func Back(committed []Generation, generation int64, release string) []Generation {
	return slices.DeleteFunc(latestFirst(committed), func(g Generation) bool { return g.Number >= generation || g.Release == release })
}

func latestFirst(committed []Generation) []Generation {
	return slices.SortedStableFunc(slices.Values(committed), func(a, b Generation) int {
		switch {
		case a.Number > b.Number:
			return -1
		case a.Number < b.Number:
			return 1
		}
		return 0
	})
}

// Wanted is what is to be kept of any volume, from what the publisher knows.
type Wanted struct {
	Keep      int               // trees, besides those that somebody holds; below 1 is 1
	Committed []string          // Releases of the history; none: not known, then later ids stand for later generations
	Held      map[string]string // releases that somebody holds, and who; the next pack for it starts from that
}

// Volume is what is on one.
type Volume struct {
	Releases []string          // ids of whole trees
	Current  string            // what `current` leads to
	Active   string            // what the fence names: not Current, if the power went before the flip
	Previous string            // was current before; asked when Committed is not known
	Base     string            // a release is being made from it
	InUse    map[string]string // releases that a mount or a process leads into, and which
}

// Item is a tree or snapshot, and what becomes of it.
type Item struct {
	ID   string
	Keep bool
	Why  string
}

// Trees says what is kept of a volume: what is needed most first.
func (w Wanted) Trees(v Volume) []Item {
	keep := max(w.Keep, 1)
	var items []Item
	for i, id := range w.order(v) {
		item := Item{ID: id, Keep: true}
		holder, why := w.Held[id], w.place(id, v)
		switch use := v.InUse[id]; {
		case id == v.Current:
			item.Why = "it is current"
		case id == v.Active:
			item.Why = "it is about to be current: the fence of the volume names it"
		case id == v.Base:
			item.Why = "a release is made from it"
		case i < keep:
			item.Why = fmt.Sprintf("%s: one of the %d to keep", why, keep)
		case holder != "":
			item.Why = holder
		case use != "":
			item.Why = "in use by " + use
		default:
			item.Keep = false
			item.Why = fmt.Sprintf("%s, nobody is on it, and there are more than --keep %d", why, keep)
		}
		items = append(items, item)
	}
	return items
}

// ForRoom returns the trees that may go, at worst, when there is no room for a new one: what is
// needed least first. All may but the current one, what is in use, and what a rollback needs, if
// more than one is to be kept.
func (w Wanted) ForRoom(v Volume) []string {
	stays := []string{v.Current, v.Active, v.Base}
	if w.Keep != 1 {
		stays = append(stays, w.Before(v))
	}
	if len(w.Committed) > 0 {
		stays = append(stays, w.Committed[0]) // the pointer's
	}
	var ids []string
	for _, held := range []bool{false, true} { // what somebody holds last
		for _, id := range slices.Backward(w.order(v)) {
			if (w.Held[id] != "") == held && v.InUse[id] == "" && !slices.Contains(stays, id) {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// Before is the release on a volume that a rollback of the current one would need; "" when there is
// none.
func (w Wanted) Before(v Volume) string {
	for _, id := range w.order(v) {
		if id != v.Current && (slices.Contains(w.Committed, id) || len(w.Committed) == 0) {
			return id
		}
	}
	return ""
}

// order has what is needed most first.
func (w Wanted) order(v Volume) []string {
	first := append([]string{v.Current}, w.Committed...)
	if len(w.Committed) == 0 {
		first = append(first, v.Previous)
	}
	var ids []string
	for _, id := range slices.Backward(slices.Sorted(slices.Values(v.Releases))) {
		first = append(first, id)
	}
	for _, id := range first {
		if slices.Contains(v.Releases, id) && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// place says what a release is to the history.
func (w Wanted) place(id string, v Volume) string {
	switch i := slices.Index(w.Committed, id); {
	case i == 0:
		return "the pointer's"
	case i > 0:
		return fmt.Sprintf("committed, %d before the pointer's", i)
	case len(w.Committed) > 0:
		return "not committed, as far as the history goes"
	case id == v.Previous:
		return "current before"
	}
	return "an older release"
}

// Snapshot is one that a publish made of the release volume.
type Snapshot struct {
	ID         string
	Generation int64 // that it was made for, committed or not; 0: not known
	Release    string
	Started    time.Time
	Usable     bool // completed
	Unfit      bool // it has none of the keys of now: nobody could go on from it
	Failed     bool // it will never be; with neither EBS is making it
}

// Snapshots is what there is to decide about them.
type Snapshots struct {
	All       []Snapshot
	Committed []Generation
	Named     []string          // by the pointer
	Booting   map[string]string // releases that members boot from, and who
	Templates map[string]string // snapshots that versions of launch templates name, and which: without it they launch nothing
	Keep      int               // releases that a rollback can boot from
	Young     func(started time.Time) bool
}

// Decide says what is kept: that of the latest generation first, and what was never committed at
// the end.
func (s Snapshots) Decide() []Item {
	keep := max(s.Keep, 1)
	first := int64(0) // that the history knows. What is older counts as committed: nothing tells
	number := map[string]int64{}
	for _, g := range latestFirst(s.Committed) {
		first = g.Number
		for _, id := range g.Snapshots {
			number[id] = max(number[id], g.Number) // a rollback names an older one again
		}
	}
	generations := slices.Clone(s.Committed)
	for _, old := range s.All {
		if number[old.ID] == 0 && old.Generation < first && old.Release != "" {
			number[old.ID] = old.Generation
			generations = append(generations, Generation{Number: old.Generation, Release: old.Release})
		}
	}
	wanted := Releases(generations)
	wanted = wanted[:min(len(wanted), keep)]
	all := slices.SortedStableFunc(slices.Values(s.All), func(a, b Snapshot) int {
		if d := number[b.ID] - number[a.ID]; d != 0 {
			return sign(d)
		}
		return b.Started.Compare(a.Started)
	})
	has := map[string]string{} // release -> the snapshot that a rollback would take
	var items []Item
	for _, old := range all {
		item := Item{ID: old.ID, Keep: true}
		who := fmt.Sprintf("generation %d, release %s", max(number[old.ID], old.Generation), old.Release)
		_, known := number[old.ID]
		switch newer := has[old.Release]; {
		case slices.Contains(s.Named, old.ID):
			item.Why = who + ": the pointer names it"
		case s.Templates[old.ID] != "":
			item.Why = who + ": " + s.Templates[old.ID]
		case old.Failed:
			item.Keep, item.Why = false, who+": it failed, and nobody can boot from it"
		case old.Unfit:
			item.Keep, item.Why = false, who+": it has none of the keys of now"
		case !old.Usable:
			item.Why = who + ": EBS is making it"
		case s.Young(old.Started):
			item.Why = who + ": younger than --grace"
		case old.Release != "" && s.Booting[old.Release] != "":
			item.Why = who + ": " + s.Booting[old.Release]
		case !known:
			item.Keep, item.Why = false, fmt.Sprintf("generation %d was never committed with it", old.Generation)
		case !slices.Contains(wanted, old.Release):
			item.Keep, item.Why = false, fmt.Sprintf("%s: the pointer does not name it, and there are more than --keep %d", who, keep)
		case newer != "":
			item.Keep, item.Why = false, fmt.Sprintf("%s: %s has the same release", who, newer)
		default:
			item.Why = fmt.Sprintf("%s: a rollback boots from it, one of the %d to keep", who, keep)
		}
		if item.Keep && known && old.Usable && has[old.Release] == "" {
			has[old.Release] = old.ID
		}
		items = append(items, item)
	}
	return items
}

func sign(d int64) int {
	if d < 0 {
		return -1
	}
	return 1
}
