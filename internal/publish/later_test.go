package publish_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"

	"github.com/aws/smithy-go"
)

// then does something else with the world's publisher, in a bubble of its own time.
func (w *world) then(t *testing.T, do func(context.Context, *publish.Publisher) (publish.Outcome, error)) (o publish.Outcome, err error) {
	t.Helper()
	w.log = nil
	synctest.Test(t, func(t *testing.T) {
		p := w.publisher()
		p.Keys, p.Claim = nil, func(context.Context) (string, func() error, error) {
			return "", func() error { return nil }, w.do("claim")
		}
		o, err = do(t.Context(), p)
	})
	if w.locked {
		t.Error("the lock is still held")
	}
	return o, err
}

func converge(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
	return p.Converge(ctx)
}

func snapshotOnly(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
	return p.Snapshot(ctx, false)
}

func (w *world) names(t *testing.T, id string, holds int64) {
	t.Helper()
	if p := w.pointer; p.Snapshots[region] != id || p.Holds().Generation != holds {
		t.Errorf("the pointer names %s of generation %d, want %s of %d: %+v", p.Snapshots[region], p.Holds().Generation, id, holds, p)
	}
}

// publishes makes generations 2 to last, as release r2 and so on.
func (w *world) publishes(t *testing.T, last int) {
	t.Helper()
	for n := 2; n <= last; n++ {
		w.source = "d" + string(rune('0'+n))
		if _, code, err := w.runWithPacks(t); code != 0 {
			t.Fatal(err)
		}
	}
}

func TestNobodyWaitsForTheSnapshot(t *testing.T) {
	w := newWorld("a")
	o, code, err := w.runWithPacks(t)
	if code != 0 || o.Pending != "snap-2" || o.SnapshotID != "" || o.Milliseconds > 6000 || len(w.did("completed")) > 0 {
		t.Errorf("code %d, %v, %+v", code, err, o)
	}
	if details := strings.Join(o.Details(), "\n"); !strings.Contains(details, "EBS is making snapshot snap-2") {
		t.Errorf("it says %s", details)
	}
	w.names(t, "snap-1", 1)
}

func TestSnapshotIsNamedByWhoeverComesNext(t *testing.T) {
	for name, tc := range map[string]struct {
		next  func(context.Context, *publish.Publisher) (publish.Outcome, error)
		named string
		holds int64
		asks  bool // for another one
	}{
		"publish": {func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
			return p.Publish(ctx, "source")
		}, "snap-2", 2, true},
		"converge": {converge, "snap-2", 2, false},
		"snapshot": {snapshotOnly, "snap-2", 2, false},
		"gc": {func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
			s, found, err := p.Name(ctx)
			if !found || s.ID != "snap-2" {
				t.Errorf("found %v: %+v", found, s)
			}
			return publish.Outcome{}, err
		}, "snap-2", 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld("a")
			w.publishes(t, 2)
			w.completes("snap-2")
			w.source = "d3"
			if _, err := w.then(t, tc.next); err != nil {
				t.Error(err)
			}
			w.names(t, tc.named, tc.holds)
			if asked := len(w.did("snapshot")) > 0; asked != tc.asks {
				t.Errorf("asked for another one: %v, want %v", asked, tc.asks)
			}
			if name == "publish" && len(w.did("commit")) != 1 {
				t.Errorf("%v: it is the commit that names it", w.did("commit"))
			}
		})
	}
}

func TestOnlyWhatIsOursIsNamed(t *testing.T) {
	for name, change := range map[string]func(*world, *publish.Snapshot){
		"pending":                       func(_ *world, s *publish.Snapshot) { s.Completed, s.Pending = false, true },
		"failed":                        func(_ *world, s *publish.Snapshot) { s.Completed = false },
		"a tag with another release":    func(_ *world, s *publish.Snapshot) { s.Holds.Release = "r7" },
		"a tag with another digest":     func(_ *world, s *publish.Snapshot) { s.Holds.Digest = "d7" },
		"a tag with another generation": func(_ *world, s *publish.Snapshot) { s.Holds.Generation = 3 },
		"not newer": func(_ *world, s *publish.Snapshot) {
			s.Holds = pointer.Held{Generation: 1, Release: "r1", Digest: "d1"}
		},
		"whose answer came after the thaw": func(w *world, _ *publish.Snapshot) {
			for i := range w.history {
				w.history[i].Asked = nil
			}
		},
		"from which no packs lead on": func(w *world, _ *publish.Snapshot) {
			w.pointer.Edges = []pointer.Edge{{From: "d1", To: "d3", Release: "r3", Bytes: 1}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld("a")
			w.publishes(t, 3)
			w.completes("snap-2")
			s := w.asked["snap-2"]
			delete(w.asked, "snap-3")
			change(w, &s)
			w.asked["snap-2"] = s
			_, err := w.then(t, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
				named, found, err := p.Name(ctx)
				if found {
					t.Errorf("named %+v", named)
				}
				return publish.Outcome{}, err
			})
			if err != nil {
				t.Error(err)
			}
			w.names(t, "snap-1", 1)
			w.source, w.after = "d4", publish.SnapshotNone
			_, err = w.then(t, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
				return p.Publish(ctx, "source")
			})
			if err != nil {
				t.Error(err)
			}
			w.names(t, "snap-1", 1)
		})
	}
}

func TestNoSnapshotIsMadeOnRequest(t *testing.T) {
	w := newWorld("a")
	w.after = publish.SnapshotNone
	o, code, err := w.runWithPacks(t)
	if code != 0 || o.Pending != "" || len(w.did("snapshot")) > 0 {
		t.Errorf("code %d, %v, %+v: did %v", code, err, o, w.did("snapshot"))
	}
	if _, err := w.then(t, converge); err != nil || len(w.did("snapshot")) > 0 {
		t.Errorf("a converge without: %v, did %v", err, w.did("snapshot"))
	}
	w.after = publish.SnapshotLeft
	o, err = w.then(t, converge)
	if got := strings.Join(w.did("claim", "snapshot", "asked"), " "); err != nil || got != "claim snapshot asked snap-2" || o.Pending != "snap-2" {
		t.Errorf("a converge asks for what nobody has asked for: %v, %+v, did %s", err, o, got)
	}
	if o, err = w.then(t, converge); err != nil || len(w.did("snapshot")) > 0 || o.Pending != "snap-2" {
		t.Errorf("while EBS makes it, nobody asks again: %v, %+v, did %v", err, o, w.did("snapshot"))
	}
}

func TestSnapshotThatIsWaitedForHasAnExitCode(t *testing.T) {
	for name, tc := range map[string]struct {
		fails string
		left  bool // the snapshot
		says  string
	}{
		"it fails":          {"completed", false, "boom"},
		"it cannot be made": {"snapshot", false, "boom"},
		"it is late":        {"", true, "whoever comes next names it"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld("a")
			w.hook = func(did string) error {
				if did == tc.fails {
					return errors.New("boom")
				}
				return nil
			}
			o, err := w.then(t, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
				p.Settings.Snapshot = publish.SnapshotWaited
				if tc.left {
					p.Settings.SnapshotDeadline = time.Second
				}
				return p.Publish(ctx, "source")
			})
			if exit.Code(err) != exit.NoSnapshot || o.Result != publish.ResultNoSnapshot || !o.Committed || !strings.Contains(err.Error(), tc.says) ||
				!strings.Contains(err.Error(), "generation 2 is live") || w.snapshots["snap-2"] != tc.left {
				t.Errorf("code %d, %v, %+v; left %v", exit.Code(err), err, o, w.snapshots)
			}
		})
	}
}

// Who publishes often meets EBS's limits: that is nothing to warn of.
func TestNoWarningAtTheLimitsOfEBS(t *testing.T) {
	w := newWorld("a")
	w.hook = func(did string) error {
		if did == "snapshot" {
			return &smithy.GenericAPIError{Code: "SnapshotCreationPerVolumeRateExceeded"}
		}
		return nil
	}
	_, code, err := w.runWithPacks(t)
	warned := slices.ContainsFunc(w.events, func(e publish.Event) bool { return e.Kind == publish.KindWarning })
	said := slices.ContainsFunc(w.events, func(e publish.Event) bool { return strings.Contains(e.Text, "EBS takes no further snapshot") })
	if code != 0 || warned || !said {
		t.Errorf("code %d, %v, warned %v, said %v", code, err, warned, said)
	}
}

func TestSnapshotVerb(t *testing.T) {
	w := newWorld("a")
	w.after = publish.SnapshotNone
	w.publishes(t, 2)
	if _, err := w.then(t, snapshotOnly); err != nil {
		t.Error(err)
	}
	w.names(t, "snap-2", 2)
	w.completes("snap-2")
	if did := w.did("list", "dial", "stage"); len(did) > 0 {
		t.Errorf("it asked members: %v", did)
	}
	if _, err := w.then(t, snapshotOnly); err != nil || len(w.did("snapshot", "commit")) > 0 {
		t.Errorf("there is nothing to do: %v, did %v", err, w.did("snapshot", "commit"))
	}
	_, err := w.then(t, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) { return p.Snapshot(ctx, true) })
	if err != nil {
		t.Error(err)
	}
	w.names(t, "snap-2b", 2)
	w.fence = 5 // a publish failed, and put its volume back
	_, err = w.then(t, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) { return p.Snapshot(ctx, true) })
	if exit.Code(err) != exit.NoSnapshot || !strings.Contains(err.Error(), "has had generation 5") || len(w.did("snapshot")) > 0 {
		t.Errorf("a volume ahead of the pointer could boot nobody: %v, did %v", err, w.did("snapshot"))
	}
}

// The programs after a publish run when the members are live.
func TestProgramsAfterDoNotWaitForTheSnapshot(t *testing.T) {
	w := newWorld("a")
	o, err := w.then(t, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
		p.Hooks, p.Settings.Snapshot = afterwards{w}, publish.SnapshotWaited
		return p.Publish(ctx, "source")
	})
	if got := strings.Join(w.did("activate", "after", "snapshot", "completed"), " "); got != "activate a after converged snapshot completed" || err != nil {
		t.Errorf("%v, %+v: did %s", err, o, got)
	}
	w = newWorld("a")
	w.boxes["a"].refuses = errors.New("broken")
	_, err = w.then(t, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
		p.Hooks = afterwards{w}
		return p.Publish(ctx, "source")
	})
	if got := strings.Join(w.did("after", "snapshot"), " "); got != "after not-converged snapshot" {
		t.Errorf("%v: did %s", err, got)
	}
}

type afterwards struct{ w *world }

func (p afterwards) Before(context.Context, string, pointer.Pointer) error { return nil }
func (p afterwards) Verify(context.Context, pointer.Pointer) error         { return nil }
func (p afterwards) After(_ context.Context, o publish.Outcome) error {
	return p.w.do("after " + o.Result)
}

func TestLag(t *testing.T) {
	w := newWorld("a")
	w.after = publish.SnapshotNone
	if lag := publish.LagOf(w.pointer, nil); lag != nil {
		t.Errorf("%+v", lag)
	}
	w.publishes(t, 3)
	for i := range w.history {
		w.history[i].Time = time.Now().Add(time.Duration(i-3) * time.Hour)
	}
	w.pointer.Created = time.Now()
	lag := publish.LagOf(w.pointer, w.history)
	if lag == nil || lag.Generation != 1 || lag.Steps != 2 || time.Since(lag.Since).Round(time.Hour) != 3*time.Hour {
		t.Fatalf("%+v", lag)
	}
	if said := lag.Warning(24 * time.Hour); said != "" {
		t.Errorf("it warns: %s", said)
	}
	if said := lag.Warning(2 * time.Hour); !strings.Contains(said, "2 packs behind for 3h") || !strings.Contains(said, "Try: ebs-release snapshot") {
		t.Errorf("it says %q", said)
	}
	lag.Steps = 33
	if lag.Warning(24*time.Hour) == "" {
		t.Error("33 packs are fine")
	}
	if slices.Contains(w.did("snapshot"), "snapshot") {
		t.Error("a snapshot was made")
	}
}
