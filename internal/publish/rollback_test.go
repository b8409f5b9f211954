package publish_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
)

// rollback goes from generation 2 back to release r1.
func rollback(t *testing.T, w *world, target publish.Target, chooseErr error) (o publish.Outcome, code int, err error) {
	t.Helper()
	w.pointer.Generation, w.pointer.Release, w.pointer.Digest, w.pointer.Snapshots = 2, "r2", "d2", map[string]string{region: "snap-2"}
	w.current, w.fence, w.trees["r2"], w.snapshots["snap-2"] = "r2", 2, "d2", true
	for _, b := range w.boxes {
		b.Generation, b.Release, b.fence = 2, "r2", 2
	}
	synctest.Test(t, func(t *testing.T) {
		o, err = w.publisher().Rollback(t.Context(), func(_ context.Context, before pointer.Pointer) (publish.Target, error) {
			if before.Generation != 2 || !w.locked {
				t.Errorf("chosen with %+v, locked %v", before, w.locked)
			}
			return target, chooseErr
		})
		code = exit.Code(err)
	})
	return o, code, err
}

func TestRollbackIsANewGenerationOfAnOlderRelease(t *testing.T) {
	w := newWorld("a", "b")
	o, code, err := rollback(t, w, publish.Target{Generation: 1, Release: "r1", Digest: "d1", SnapshotID: "snap-1"}, nil)
	if err != nil || code != exit.Done || o.Generation != 3 || o.Release != "r1" || o.SnapshotID != "snap-1" || o.OnIt != 2 || o.Result != publish.ResultConverged {
		t.Fatalf("%+v, %v", o, err)
	}
	if w.pointer.Generation != 3 || w.pointer.Snapshots[region] != "snap-1" || w.current != "r1" || w.fence != 3 || w.boxes["a"].fence != 3 {
		t.Errorf("pointer %+v, volume %s at %d, member at %d", w.pointer, w.current, w.fence, w.boxes["a"].fence)
	}
	if did := w.did("snapshot", "ingest"); len(did) != 0 {
		t.Errorf("did %v: the earlier snapshot was there", did)
	}
}

func TestRollbackWithoutItsSnapshotMakesOne(t *testing.T) {
	w := newWorld("a")
	o, _, err := rollback(t, w, publish.Target{Generation: 1, Release: "r1", Digest: "d1"}, nil)
	if err != nil || o.SnapshotID != "snap-3" || len(w.did("snapshot")) != 1 {
		t.Fatalf("%+v, %v", o, err)
	}
}

func TestRollbackThatFailsLeavesTheEarlierSnapshotAlone(t *testing.T) {
	w := newWorld("a")
	w.hook = func(call string) error {
		if call == "completed" {
			return errors.New("boom")
		}
		return nil
	}
	_, code, err := rollback(t, w, publish.Target{Generation: 1, Release: "r1", Digest: "d1", SnapshotID: "snap-1"}, nil)
	if code != exit.Unchanged || !w.snapshots["snap-1"] || w.current != "r2" || w.pointer.Generation != 2 {
		t.Errorf("code %d, %v, snapshots %v, current %s", code, err, w.snapshots, w.current)
	}
}

func TestRollbackToNothingChangesNothing(t *testing.T) {
	w := newWorld("a")
	_, code, err := rollback(t, w, publish.Target{}, errors.New("there is no generation before"))
	if code != exit.Unchanged || !strings.Contains(err.Error(), "no generation before") || len(w.did("flip")) != 0 {
		t.Errorf("code %d, %v, %v", code, err, w.did("flip"))
	}
}

func TestIfGenerationStopsAPublishOfSomethingElse(t *testing.T) {
	for at, want := range map[int64]int{1: exit.Done, 0: exit.Conflict, 7: exit.Conflict} {
		w := newWorld("a")
		var code int
		var err error
		synctest.Test(t, func(t *testing.T) {
			p := w.publisher()
			p.Settings.IfGeneration = &at
			_, err = p.Publish(t.Context(), "source")
			code = exit.Code(err)
		})
		if code != want {
			t.Errorf("at %d: code %d, %v", at, code, err)
		}
		if want == exit.Conflict && (!errors.Is(err, pointer.ErrConflict) || len(w.did("ingest")) != 0 || w.locked) {
			t.Errorf("at %d: %v, %v", at, err, w.log)
		}
	}
}

func TestPreviewTriesEverythingAndChangesNothing(t *testing.T) {
	w := newWorld("a", "b")
	var p publish.Preview
	var err error
	synctest.Test(t, func(t *testing.T) { p, err = w.publisher().Preview(t.Context()) })
	if err != nil || p.Next != 2 || p.Before.Generation != 1 || len(p.Members) != 2 || w.locked {
		t.Fatalf("%+v, %v", p, err)
	}
	if did := w.did("ingest", "flip", "snapshot", "commit", "stage", "activate", "report", "prune"); len(did) != 0 {
		t.Errorf("did %v", did)
	}
	if !slices.Contains(w.did("check"), "check") {
		t.Error("nothing was checked")
	}
}
