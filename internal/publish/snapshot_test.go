package publish_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/catchup"
	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
)

// Make is of publish.Packs.
func (w *world) Make(_ context.Context, from, to string) (pointer.Edge, error) {
	if err := w.do("pack " + from + " " + to); err != nil {
		return pointer.Edge{}, err
	}
	return pointer.Edge{From: w.trees[from], To: w.trees[to], Release: to, Pack: "packs/" + from + "-" + to, Bytes: 100, Made: time.Now()}, nil
}

// runWithPacks publishes to a store that takes packs.
func (w *world) runWithPacks(t *testing.T) (o publish.Outcome, code int, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := w.publisher()
		p.Keys = nil // those of the pointer
		o, err = p.Publish(t.Context(), "source")
		code = exit.Code(err)
	})
	if w.locked {
		t.Error("the lock is still held")
	}
	return o, code, err
}

func TestReleaseIsLiveBeforeItsSnapshot(t *testing.T) {
	w := newWorld("a", "b")
	w.after = publish.SnapshotWaited
	var atCommit pointer.Pointer
	w.hook = func(call string) error {
		if call == "snapshot" {
			atCommit = w.pointer
		}
		return nil
	}
	o, code, err := w.runWithPacks(t)
	if err != nil || code != 0 {
		t.Fatalf("code %d, %v", code, err)
	}
	order := w.did("lock", "ingest", "pack", "flip", "snapshot", "asked", "stage a", "completed", "commit", "activate a", "report", "prune")
	want := "lock ingest pack r1 r2 stage a commit flip r2 at 2 activate a report vol-a,vol-b snapshot asked snap-2 prune r1 r2 completed commit"
	if got := strings.Join(order, " "); got != want {
		t.Errorf("did %s\nwant %s", got, want)
	}
	if of := atCommit.SnapshotOf; of == nil || *of != (pointer.Held{Generation: 1, Release: "r1", Digest: "d1"}) ||
		atCommit.Snapshots[region] != "snap-1" || len(atCommit.Edges) != 1 || atCommit.Generation != 2 {
		t.Errorf("committed was %+v", atCommit)
	}
	if p := w.pointer; p.Generation != 2 || p.SnapshotOf != nil || p.Snapshots[region] != "snap-2" || len(p.Edges) != 1 {
		t.Errorf("in the end the pointer is %+v", p)
	}
	if o.SnapshotID != "snap-2" || o.Frozen != 300 || o.Packed != 100 {
		t.Errorf("outcome %+v", o)
	}
}

func TestFirstPublishWaitsForItsSnapshot(t *testing.T) {
	w := newWorld()
	w.pointer, w.current, w.fence, w.trees = pointer.Pointer{}, "", 0, map[string]string{}
	_, code, err := w.runWithPacks(t)
	got := strings.Join(w.did("pack", "flip", "snapshot", "completed", "commit"), " ")
	if want := "flip r2 at 1 snapshot completed commit"; got != want || code != 0 {
		t.Errorf("code %d, %v, did %s, want %s", code, err, got, want)
	}
}

// The pointer was restored from an old copy, and nobody has what it names: no pack can be made, and
// that is no wall.
func TestReleaseThatNoPackLeadsToGetsItsSnapshotFirst(t *testing.T) {
	w := newWorld("a")
	w.trees, w.fence, w.noWay = map[string]string{}, 3, catchup.ErrNoWay
	w.boxes["a"].has["r1"] = true
	_, code, err := w.runWithPacks(t)
	got := strings.Join(w.did("pack", "flip", "snapshot", "completed", "commit"), " ")
	if want := "flip r2 at 4 snapshot completed commit"; got != want || code != 0 || w.pointer.SnapshotOf != nil {
		t.Errorf("code %d, %v, did %s, want %s", code, err, got, want)
	}
}

// A snapshot that has none of the keys that sign is no beginning: who boots from it could believe
// no pack. While a key is rotated it has one of the two.
func TestPublishWithOtherKeysWaitsForItsSnapshot(t *testing.T) {
	w := newWorld("a")
	for n, tc := range []struct {
		keys  []string
		waits bool
		since int64
	}{
		{[]string{"old"}, true, 2}, {[]string{"old"}, false, 2},
		{[]string{"new", "old"}, false, 4}, {[]string{"new", "old"}, false, 4}, {[]string{"new"}, false, 6},
		{[]string{"another"}, true, 7},
	} {
		number := n + 2
		want := fmt.Sprintf("pack r%d r%d commit flip r%[2]d at %[2]d snapshot", number-1, number)
		if tc.waits {
			want = fmt.Sprintf("flip r%d at %[1]d snapshot completed commit", number)
		}
		w.log, w.source = nil, fmt.Sprint("d", number)
		synctest.Test(t, func(t *testing.T) {
			p := w.publisher()
			p.Keys = tc.keys
			if _, err := p.Publish(t.Context(), "source"); err != nil {
				t.Error(err)
			}
		})
		if got := strings.Join(w.did("pack", "flip", "snapshot", "completed", "commit"), " "); got != want {
			t.Errorf("publish %d did %s, want %s", number, got, want)
		}
		if !slices.Equal(w.pointer.Keys, tc.keys) || w.pointer.KeysSince != tc.since {
			t.Errorf("publish %d: keys %v since %d, want %v since %d", number, w.pointer.Keys, w.pointer.KeysSince, tc.keys, tc.since)
		}
	}
}

func TestPackThatCannotBeMadeChangesNothing(t *testing.T) {
	boom := errors.New("boom")
	for _, call := range []string{"pack", "stage", "commit"} {
		w := newWorld("a")
		w.hook = func(did string) error {
			if strings.HasPrefix(did, call) {
				return boom
			}
			return nil
		}
		_, code, err := w.runWithPacks(t)
		if code != exit.Unchanged || !errors.Is(err, boom) {
			t.Errorf("%s: code %d, %v", call, code, err)
		}
		unchanged(t, w)
		if did := w.did("flip", "snapshot"); len(did) > 0 || w.fence != 1 {
			t.Errorf("%s: did %v: the release volume is ahead of the pointer", call, did)
		}
	}
}

// What comes after the commit is a warning: CI must not roll back what is live.
func TestSnapshotThatFailsLeavesTheReleaseLive(t *testing.T) {
	for _, call := range []string{"snapshot", "flip r2"} {
		w := newWorld("a")
		w.hook = func(did string) error {
			if strings.HasPrefix(did, call) {
				return errors.New("boom")
			}
			return nil
		}
		o, code, err := w.runWithPacks(t)
		warned := slices.ContainsFunc(w.events, func(e publish.Event) bool {
			return e.Kind == publish.KindWarning && strings.Contains(e.Text, "has no snapshot of its own") && strings.Contains(e.Text, "boom")
		})
		if code != 0 || o.Result != publish.ResultConverged || !warned {
			t.Errorf("%s: code %d, %v, %+v, warned %v", call, code, err, o, warned)
		}
		if of := w.pointer.SnapshotOf; of == nil || of.Generation != 1 || w.pointer.Snapshots[region] != "snap-1" || o.SnapshotID != "" {
			t.Errorf("%s: the pointer is %+v", call, w.pointer)
		}
		if w.snapshots["snap-2"] {
			t.Errorf("%s: the snapshot is left", call)
		}
	}
}

// The next publish goes on from the snapshot that there is, over both packs.
func TestPublishAfterASnapshotThatFailed(t *testing.T) {
	w := newWorld("a")
	w.hook = func(did string) error {
		if did == "snapshot" {
			return errors.New("boom")
		}
		return nil
	}
	if _, code, err := w.runWithPacks(t); code != 0 {
		t.Fatal(err)
	}
	w.source = "d3"
	if _, code, err := w.runWithPacks(t); code != 0 {
		t.Fatal(err)
	}
	p := w.pointer
	way, found := p.Way(func(digest string) bool { return digest == "d1" })
	if !found || len(way) != 2 || p.Holds().Digest != "d1" || p.Snapshots[region] != "snap-1" {
		t.Errorf("pointer %+v: %d packs lead there, %v", p, len(way), found)
	}
}

// Somebody else publishes while the snapshot is on its way: theirs is not overwritten, and what
// launches starts from the newest snapshot that there is.
func TestSnapshotIsNamedInThePointerAsItIs(t *testing.T) {
	for name, tc := range map[string]struct {
		moved pointer.Pointer
		holds int64 // the generation that the pointer's snapshot holds in the end
	}{
		"a newer one, by packs from here": {pointer.Pointer{
			Generation: 3, Release: "r3", Digest: "d3", Snapshots: map[string]string{region: "snap-1"},
			SnapshotOf: &pointer.Held{Generation: 1, Release: "r1", Digest: "d1"},
			Edges:      []pointer.Edge{{From: "d1", To: "d2", Release: "r2", Bytes: 1}, {From: "d2", To: "d3", Release: "r3", Bytes: 1}},
		}, 2},
		"a newer one with a snapshot": {pointer.Pointer{Generation: 3, Release: "r3", Digest: "d3", Snapshots: map[string]string{region: "snap-3"}}, 3},
		"a newer one with a snapshot, and packs from here": {pointer.Pointer{
			Generation: 3, Release: "r3", Digest: "d3", Snapshots: map[string]string{region: "snap-3"},
			Edges: []pointer.Edge{{From: "d1", To: "d2", Release: "r2", Bytes: 1}, {From: "d2", To: "d3", Release: "r3", Bytes: 1}},
		}, 3},
		"a newer one that no pack leads to from here": {pointer.Pointer{
			Generation: 3, Release: "r3", Digest: "d3", Snapshots: map[string]string{region: "snap-1"},
			SnapshotOf: &pointer.Held{Generation: 1, Release: "r1", Digest: "d1"}, Edges: []pointer.Edge{{From: "d1", To: "d3", Release: "r3", Bytes: 1}},
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld("a")
			w.after = publish.SnapshotWaited
			w.hook = func(did string) error {
				if did == "completed" {
					w.mu.Lock()
					w.pointer = tc.moved
					w.mu.Unlock()
				}
				return nil
			}
			_, code, err := w.runWithPacks(t)
			if p := w.pointer; code != 0 || p.Generation != 3 || p.Holds().Generation != tc.holds {
				t.Errorf("code %d, %v, pointer %+v", code, err, p)
			}
		})
	}
}

// Another run waited for the snapshot of the generation that this one began at, and names it before
// the commit: that is no other publish.
func TestSnapshotThatIsNamedMeanwhileIsNoConflict(t *testing.T) {
	w := newWorld("a")
	w.pointer.SnapshotOf = &pointer.Held{Generation: 1, Release: "r0", Digest: "d0"}
	w.pointer.Edges = []pointer.Edge{{From: "d0", To: "d1", Release: "r1", Bytes: 1}}
	commits := 0
	w.hook = func(did string) error {
		if did == "commit" {
			if commits++; commits == 1 {
				w.mu.Lock()
				w.pointer.SnapshotOf, w.pointer.Snapshots = nil, map[string]string{region: "snap-of-r1"}
				w.pointer.Revision++
				w.mu.Unlock()
			}
			if commits == 2 && w.pointer.Generation != 1 {
				t.Errorf("the first commit came through: %+v", w.pointer)
			}
		}
		return nil
	}
	var atCommit pointer.Pointer
	_, code, err := w.runWithPacks(t)
	for _, e := range w.events {
		if strings.Contains(e.Text, "snapshot snap-of-r1 of generation 1 and packs from there") {
			atCommit.Generation = 2
		}
	}
	if code != 0 || atCommit.Generation != 2 {
		t.Errorf("code %d, %v, %+v", code, err, w.events)
	}
}

// One member that cannot be brought to it does not keep the fleet from a snapshot.
func TestMemberThatIsLeftBehindDoesNotPreventTheSnapshot(t *testing.T) {
	w := newWorld("a", "b")
	w.boxes["b"].refuses = errors.New("broken")
	o, code, err := w.runWithPacks(t)
	if code != exit.NotConverged || o.Pending != "snap-2" || o.Result != publish.ResultNotConverged {
		t.Errorf("code %d, %v, outcome %+v", code, err, o)
	}
}

// The first signal after the members are on it ends the wait for EBS: the release stays live, and
// the snapshot is for whoever comes next.
func TestSignalWhileTheSnapshotCompletes(t *testing.T) {
	w := newWorld("a")
	var o publish.Outcome
	var err error
	synctest.Test(t, func(t *testing.T) {
		ctx, interrupt := context.WithCancel(t.Context())
		defer interrupt()
		p := w.publisher()
		p.Keys = nil // those of the pointer
		p.Settings.Snapshot = publish.SnapshotWaited
		w.hook = func(did string) error {
			if did == "snapshot" {
				interrupt()
			}
			return nil
		}
		o, err = p.Publish(ctx, "source")
	})
	if exit.Code(err) != exit.Interrupted || !strings.Contains(err.Error(), "interrupted; generation 2 is live") || w.pointer.SnapshotOf == nil ||
		len(w.did("completed", "delete")) > 0 {
		t.Errorf("%v, %+v, pointer %+v", err, o, w.pointer)
	}
}

func TestLongWaysAreMadeShort(t *testing.T) {
	w := newWorld()
	last := 1
	publishOne := func() {
		last++
		w.source = fmt.Sprint("d", last)
		w.hook = func(did string) error {
			if did == "snapshot" { // there is none for a long time
				return errors.New("boom")
			}
			return nil
		}
		if _, code, err := w.runWithPacks(t); code != 0 {
			t.Fatal(err)
		}
	}
	for range 60 {
		publishOne()
		p := w.pointer
		way, found := p.Way(func(digest string) bool { return digest == p.Holds().Digest })
		if !found || len(way) > 48 || len(p.Edges) > 50 {
			t.Fatalf("release %d: %d packs of %d lead there, %v", last, len(way), len(p.Edges), found)
		}
	}
	if did := w.did("pack r1 "); len(did) < 2 {
		t.Errorf("%v: nothing made the way short", did)
	}
}

func TestRollbackByPacksNeedsNoSnapshotFirst(t *testing.T) {
	w := newWorld("a")
	if _, code, err := w.runWithPacks(t); code != 0 {
		t.Fatal(err)
	}
	w.log = nil
	var o publish.Outcome
	var err error
	synctest.Test(t, func(t *testing.T) {
		p := w.publisher()
		p.Keys = nil // those of the pointer
		o, err = p.Rollback(t.Context(), func(context.Context, pointer.Pointer) (publish.Target, error) {
			return publish.Target{Generation: 1, Release: "r1", Digest: "d1"}, nil
		})
	})
	got := strings.Join(w.did("pack", "flip", "snapshot", "completed", "commit", "activate"), " ")
	if want := "pack r2 r1 commit flip r1 at 3 activate a snapshot"; err != nil || got != want || o.Release != "r1" {
		t.Errorf("%v, %+v, did %s, want %s", err, o, got, want)
	}
}
