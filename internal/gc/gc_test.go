package gc

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// id is a release that was taken in on a day of January, by the publisher's clock.
func id(day int) string { return fmt.Sprintf("202601%02dT000000Z-0000000000%02d", day, day) }

func ids(days ...int) (all []string) {
	for _, d := range days {
		all = append(all, id(d))
	}
	return all
}

// committed are generations 1, 2, …, of releases of these days.
func committed(days ...int) (all []Generation) {
	for i, d := range days {
		all = append(all, Generation{Number: int64(i + 1), Release: id(d), Snapshots: []string{fmt.Sprint("snap-", i+1)}})
	}
	return all
}

func short(days []string) string {
	for i, d := range days {
		if d != "" {
			days[i] = strings.TrimLeft(d[6:8], "0")
		}
	}
	return strings.Join(days, " ")
}

func going(items []Item, keep bool) (all []string) {
	for _, i := range items {
		if i.Keep == keep {
			all = append(all, i.ID)
		}
	}
	return all
}

func TestTreesAreKeptByWhatWasCommitted(t *testing.T) {
	for name, tc := range map[string]struct {
		wanted     Wanted
		volume     Volume
		kept, goes string // the most needed first
	}{
		"after publishes": {
			Wanted{Keep: 2, Committed: Releases(committed(1, 2, 3))},
			Volume{Releases: ids(1, 2, 3), Current: id(3)}, "3 2", "1",
		},
		"after a rollback to the oldest": {
			Wanted{Keep: 2, Committed: Releases(committed(1, 2, 3, 1))},
			Volume{Releases: ids(1, 2, 3), Current: id(1)}, "1 3", "2",
		},
		"after publishes that failed": {
			Wanted{Keep: 2, Committed: Releases(committed(1, 2))},
			Volume{Releases: ids(1, 2, 3, 4, 5), Current: id(2), Previous: id(5)}, "2 1", "5 4 3",
		},
		"after one with the clock put ahead": {
			Wanted{Keep: 3, Committed: Releases(committed(1, 30, 2, 3))},
			Volume{Releases: ids(1, 2, 3, 30), Current: id(3)}, "3 2 30", "1",
		},
		"with room for all that is to be kept, also what was not committed": {
			Wanted{Keep: 5, Committed: Releases(committed(1, 2))},
			Volume{Releases: ids(1, 2, 3, 4), Current: id(2)}, "2 1 4 3", "",
		},
		"what somebody holds does not drive out what a rollback needs": {
			Wanted{Keep: 2, Committed: Releases(committed(1, 2, 3, 4)), Held: map[string]string{id(1): "i-1 is on it"}},
			Volume{Releases: ids(1, 2, 3, 4), Current: id(4), InUse: map[string]string{id(2): "process 7 (sh)"}}, "4 3 2 1", "",
		},
		"when the power went before the flip": {
			Wanted{Keep: 1, Committed: Releases(committed(1, 2))},
			Volume{Releases: ids(1, 2, 3), Current: id(1), Active: id(2)}, "1 2", "3",
		},
		"a member of a publisher that says nothing": {
			Wanted{Keep: 3},
			Volume{Releases: ids(1, 2, 3, 4), Current: id(2), Previous: id(1)}, "2 1 4", "3",
		},
		"keep below one": {Wanted{}, Volume{Releases: ids(1, 2), Current: id(1)}, "1", "2"},
		"nothing":        {Wanted{Keep: 3}, Volume{}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			items := tc.wanted.Trees(tc.volume)
			if kept, goes := short(going(items, true)), short(going(items, false)); kept != tc.kept || goes != tc.goes {
				t.Errorf("keeps %q, removes %q; want %q, %q", kept, goes, tc.kept, tc.goes)
			}
			for _, i := range items {
				if i.Why == "" {
					t.Errorf("%s: no reason", i.ID)
				}
			}
		})
	}
}

func TestRoomIsMadeOfAllButWhatARollbackNeeds(t *testing.T) {
	history := Releases(committed(1, 2, 3, 4))
	all := Volume{Releases: ids(1, 2, 3, 4, 9), Current: id(4)}
	for name, tc := range map[string]struct {
		wanted Wanted
		volume Volume
		want   string // the least needed first
	}{
		"a release that was not committed first": {Wanted{Keep: 5, Committed: history}, all, "9 1 2"},
		"what members hold last":                 {Wanted{Keep: 5, Committed: history, Held: map[string]string{id(9): "i-1"}}, all, "1 2 9"},
		"nothing to go back to is wanted":        {Wanted{Keep: 1, Committed: history}, all, "9 1 2 3"},
		"what is in use stays": {Wanted{Keep: 5, Committed: history},
			Volume{Releases: all.Releases, Current: id(4), InUse: map[string]string{id(1): "a mount"}}, "9 2"},
		"the base stays": {Wanted{Keep: 5, Committed: history}, Volume{Releases: all.Releases, Current: id(4), Base: id(1)}, "9 2"},
		"a member that is behind keeps the pointer's": {Wanted{Keep: 5, Committed: history},
			Volume{Releases: ids(1, 2, 4), Current: id(2)}, "1"},
		"nothing is known": {Wanted{Keep: 3}, Volume{Releases: ids(1, 2, 3), Current: id(1), Previous: id(2)}, "3"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := short(tc.wanted.ForRoom(tc.volume)); got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

func TestARollbackGoesToTheLatestOtherRelease(t *testing.T) {
	back := Back(committed(1, 2, 3, 3, 2), 5, id(2))
	var numbers []int64
	for _, g := range back {
		numbers = append(numbers, g.Number)
	}
	if !slices.Equal(numbers, []int64{4, 3, 1}) {
		t.Errorf("%v", numbers)
	}
}

func TestSnapshotsAreKeptForWhatARollbackBootsFrom(t *testing.T) {
	at := func(day int) time.Time { return time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC) }
	made := func(generation int64, day int) Snapshot {
		return Snapshot{ID: fmt.Sprint("snap-", generation), Generation: generation, Release: id(day), Started: at(day), Usable: true}
	}
	nobody := func(time.Time) bool { return false }
	all := []Snapshot{made(1, 1), made(2, 2), made(3, 3), made(4, 4), made(5, 5)}
	back := append(committed(1, 2, 3, 4), Generation{Number: 6, Release: id(1), Snapshots: []string{"snap-1"}}) // 5 was never committed, 6 is a rollback to 1
	for name, tc := range map[string]struct {
		facts Snapshots
		kept  string
	}{
		"after a rollback": {Snapshots{All: all, Committed: back, Named: []string{"snap-1"}, Keep: 2, Young: nobody}, "snap-1 snap-4"},
		"one that boots":   {Snapshots{All: all, Committed: back, Booting: map[string]string{id(2): "i-1 boots"}, Keep: 1, Young: nobody}, "snap-1 snap-2"},
		"the young":        {Snapshots{All: all, Committed: back, Keep: 1, Young: func(t time.Time) bool { return t.Equal(at(5)) }}, "snap-1 snap-5"},
		"of one release the latest": {Snapshots{
			All:       append(all[:3:3], Snapshot{ID: "snap-4", Generation: 4, Release: id(3), Started: at(4), Usable: true}),
			Committed: committed(1, 2, 3, 3), Keep: 2, Young: nobody}, "snap-4 snap-2"},
		"of one release the latest that is completed": {Snapshots{
			All:       append(all[:3:3], Snapshot{ID: "snap-4", Generation: 4, Release: id(3), Started: at(4)}),
			Committed: committed(1, 2, 3, 3), Keep: 1, Young: nobody}, "snap-4 snap-3"},
		"what EBS is making, however old, and not what failed": {Snapshots{
			All: append(all[:2:2], Snapshot{ID: "snap-3", Generation: 2, Release: id(2), Started: at(3)},
				Snapshot{ID: "snap-4", Generation: 2, Release: id(2), Started: at(4), Failed: true}),
			Committed: committed(1, 2), Keep: 1, Young: func(t time.Time) bool { return t.Equal(at(4)) }}, "snap-2 snap-3"},
		"not what has none of the keys of now, however young": {Snapshots{
			All: append(all[:2:2], Snapshot{ID: "snap-3", Generation: 3, Release: id(3), Started: at(3), Usable: true, Unfit: true},
				Snapshot{ID: "snap-4", Generation: 4, Release: id(4), Started: at(4), Usable: true, Unfit: true}),
			Committed: committed(1, 2, 3, 4), Named: []string{"snap-3"}, Keep: 3, Young: func(t time.Time) bool { return t.Equal(at(4)) }}, "snap-3 snap-2"},
		"what a launch template names, also where nobody could go on from it": {Snapshots{
			All:       append(all[:3:3], Snapshot{ID: "snap-4", Generation: 4, Release: id(4), Started: at(4), Usable: true, Unfit: true}),
			Committed: committed(1, 2, 3, 4), Keep: 1, Young: nobody, Templates: map[string]string{"snap-1": "a version names it", "snap-4": "another"}}, "snap-4 snap-1"},
		"a history that was lost": {Snapshots{All: all, Committed: back[4:], Named: []string{"snap-1"}, Keep: 3, Young: nobody}, "snap-1 snap-5 snap-4"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := strings.Join(going(tc.facts.Decide(), true), " "); got != tc.kept {
				t.Errorf("keeps %s, want %s", got, tc.kept)
			}
		})
	}
}
