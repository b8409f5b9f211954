package publish_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"ebs-release/internal/catchup"
	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
)

// elsewhere has generation 5 published by another release server: r5, which this one has never
// had.
func elsewhere(w *world) {
	w.pointer = pointer.Pointer{Generation: 5, Release: "r5", Digest: "d5", Snapshots: map[string]string{region: "snap-1"}}
}

// A release server that is behind catches up before it builds on what it has.
func TestReleaseVolumeCatchesUpFirst(t *testing.T) {
	for _, tc := range []struct {
		name  string
		setup func(*world)
		want  []string
		next  int64
	}{
		{"published elsewhere", elsewhere, []string{"catch up to r5", "flip r5 at 5", "ingest", "pack r5 r2", "flip r2 at 6"}, 6},
		{"a publish was killed after its commit", func(w *world) {
			elsewhere(w)
			w.trees["r5"] = "d5"
		}, []string{"flip r5 at 5", "ingest", "pack r5 r2", "flip r2 at 6"}, 6},
		{"a publish failed here, and another server was faster", func(w *world) {
			elsewhere(w)
			w.fence = 6
		}, []string{"catch up to r5", "flip r5 at 7", "ingest", "pack r5 r2", "flip r2 at 8"}, 8},
		{"another server was faster with the same generation", func(w *world) {
			elsewhere(w)
			w.fence, w.current = 5, "r4"
		}, []string{"catch up to r5", "flip r5 at 6", "ingest", "pack r5 r2", "flip r2 at 7"}, 7},
		{"nothing was ever published here, and no packs lead there", func(w *world) {
			elsewhere(w)
			w.fence, w.current, w.trees, w.noWay = 0, "", map[string]string{}, catchup.ErrNoWay
		}, []string{"catch up to r5", "ingest", "flip r2 at 6"}, 6},
		{"current, and above it: a publish failed here", func(w *world) { w.fence = 3 }, []string{"ingest", "pack r1 r2", "flip r2 at 4"}, 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld("a")
			tc.setup(w)
			o, code, err := w.runWithPacks(t)
			if got := w.did("catch up", "flip", "ingest", "pack"); code != 0 || o.Generation != tc.next || !slices.Equal(got, tc.want) {
				t.Errorf("code %d, %v, generation %d; did %q, want %q", code, err, o.Generation, got, tc.want)
			}
		})
	}
}

func TestReleaseVolumeThatCannotCatchUpChangesNothing(t *testing.T) {
	for _, tc := range []struct {
		cause error
		want  string
	}{
		{catchup.ErrNoWay, "ebs-release init --join"},
		{catchup.ErrGone, "ebs-release init --join"},
		{catchup.ErrUnfit, "ebs-release init --join"},
		{fmt.Errorf("%w: no answer", catchup.ErrStore), "no answer"},
	} {
		w := newWorld("a")
		elsewhere(w)
		w.noWay = tc.cause
		_, code, err := w.runWithPacks(t)
		did := w.did("flip", "ingest", "pack", "commit", "stage", "activate", "snapshot")
		if code != exit.Unchanged || len(did) != 0 || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "r5") {
			t.Errorf("code %d, %v; did %q", code, err, did)
		}
	}
}

// What a converge sends to members comes from the release volume.
func TestConvergeNeedsTheReleaseHere(t *testing.T) {
	w := newWorld("a")
	elsewhere(w)
	o, code, err := w.converge(t)
	if got := strings.Join(w.did("catch up", "flip"), " "); code != 0 || o.OnIt != 1 || got != "catch up to r5 flip r5 at 5" {
		t.Errorf("code %d, %v, %+v; did %s", code, err, o, got)
	}
	w = newWorld("a")
	elsewhere(w)
	w.fence, w.noWay = 9, catchup.ErrNoWay // however far ahead it is
	if _, code, err := w.converge(t); code != exit.Unchanged || len(w.did("stage", "activate")) != 0 {
		t.Errorf("code %d, %v", code, err)
	}
}

func TestPreviewSaysThatTheReleaseVolumeIsBehind(t *testing.T) {
	w := newWorld("a")
	elsewhere(w)
	synctest.Test(t, func(t *testing.T) {
		p, err := w.publisher().Preview(t.Context())
		if err != nil || !p.Behind || p.Next != 6 || len(w.did("catch up", "flip")) != 0 {
			t.Errorf("%+v, %v, did %q", p, err, w.log)
		}
	})
	if !slices.ContainsFunc(w.events, func(e publish.Event) bool { return strings.Contains(e.Text, "a publish brings the volume there first") }) {
		t.Errorf("it says %+v", w.events)
	}
}
