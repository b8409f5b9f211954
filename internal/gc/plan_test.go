package gc

import (
	"strings"
	"testing"
	"time"
)

// TestAPlanHoldsWhatMembersNeed: a tree and a snapshot of each release, one a day; what goes is
// what nobody holds and is older than the grace.
func TestAPlanHoldsWhatMembersNeed(t *testing.T) {
	day := func(n int) time.Time { return time.Date(2026, 1, n, 0, 0, 0, 0, time.UTC) }
	release := func(n int) string { return day(n).Format("20060102T150405Z") + "-aabbccddeeff" }
	v := Inventory{
		Now: day(7), Grace: 36 * time.Hour, Keep: 1, Release: release(6), Named: []string{"snap-6"},
		Members: []Member{{InstanceID: "i-serves", Release: release(2), Serves: true}, {InstanceID: "i-boots", Release: release(3)}},
		Volume:  Volume{Current: release(6)},
		Orphans: []Orphan{{VolumeID: "vol-gone", InstanceID: "i-9", Created: day(1)}, {VolumeID: "vol-left", InstanceID: "i-9", Created: day(1), Left: true},
			{VolumeID: "vol-young", InstanceID: "i-9", Created: day(6)}},
		Packs: []Pack{
			{Key: "packs/listed", Made: day(1), Listed: true}, {Key: "packs/old", Made: day(1)},
			{Key: "packs/today", Made: day(7).Add(-time.Hour)}, {Key: "packs/young", Made: day(6)},
		},
		Records: []Record{{Path: "/tmp/old", Made: day(1)}, {Path: "/tmp/young", Made: day(6)}},
	}
	for n := 1; n <= 6; n++ {
		id := "snap-" + day(n).Format("2")
		v.Volume.Releases = append(v.Volume.Releases, release(n))
		v.Snapshots = append(v.Snapshots, Snapshot{ID: id, Generation: int64(n), Release: release(n), Started: day(n), Usable: true})
		v.Committed = append(v.Committed, Generation{Number: int64(n), Release: release(n), Snapshots: []string{id}})
	}
	why := map[string]string{}
	var goes []string
	for _, p := range v.Plan() {
		why[p.ID] = p.Why
		if !p.Keep {
			goes = append(goes, p.Kind+" "+p.ID)
		}
	}
	want := "tree " + release(5) + ", tree " + release(4) + ", tree " + release(1) + ", " +
		"snapshot snap-5, snapshot snap-4, snapshot snap-2, snapshot snap-1, volume vol-gone, volume vol-left, pack packs/old, record /tmp/old"
	if got := strings.Join(goes, ", "); got != want {
		t.Errorf("goes: %s\nwant: %s", got, want)
	}
	for id, words := range map[string]string{
		release(6): "it is current", release(2): "i-serves is on it", release(3): "i-boots is on it", "snap-3": "i-boots boots from it",
		"snap-6": "the pointer names it", "vol-gone": "i-9 is gone", "vol-left": "i-9 has left it behind", "vol-young": "younger than --grace",
		"/tmp/young": "younger than --grace", "packs/listed": "the pointer lists it", "packs/today": "younger than a day", "packs/young": "younger than --grace",
	} {
		if !strings.Contains(why[id], words) {
			t.Errorf("%s: %q, want %q", id, why[id], words)
		}
	}
}

// A name that says no time is the oldest: only what holds it keeps it.
func TestATreeWithoutATimeIsOld(t *testing.T) {
	v := Inventory{Now: time.Now(), Grace: time.Hour, Keep: 1, Release: "b", Volume: Volume{Current: "b", Releases: []string{"a", "b"}}}
	plan := v.Plan()
	if len(plan) != 2 || !plan[0].Keep || plan[1].ID != "a" || plan[1].Keep {
		t.Errorf("%+v", plan)
	}
}

// TestReportsThatSpeakForNobodyGo: after a day, all as one item.
func TestReportsThatSpeakForNobodyGo(t *testing.T) {
	now := time.Now()
	old := now.Add(-25 * time.Hour)
	v := Inventory{
		Now:     now,
		Members: []Member{{InstanceID: "i-1", Reported: "7/i-1"}, {InstanceID: "i-2"}, {InstanceID: "i-3", Reported: "7/i-3"}},
		Reports: []Report{
			{"6/i-1", "i-1", old}, {"7/i-1", "i-1", old}, {"9/i-1", "i-1", old}, {"6/i-2", "i-2", old}, {"6/i-3", "i-3", now.Add(-23 * time.Hour)},
			{"7/i-4", "i-4", old.Add(-time.Hour)}, {"8/i-4", "i-4", now}, {"nonsense", "", old},
		},
	}
	plan := v.Plan()
	if len(plan) != 1 || plan[0].Keep || plan[0].ID != "4 objects" || strings.Join(plan[0].Keys, " ") != "6/i-1 9/i-1 7/i-4 nonsense" || !plan[0].Created.Equal(old.Add(-time.Hour)) {
		t.Errorf("%+v", plan)
	}
	v.Grace = 48 * time.Hour
	if plan := v.Plan(); len(plan) != 0 {
		t.Errorf("younger than the grace: %+v", plan)
	}
}
