package publish_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/publish"
)

// verbs that a second process on the same server may run.
var verbs = map[string]func(context.Context, *publish.Publisher) error{
	"publish":  func(ctx context.Context, p *publish.Publisher) error { _, err := p.Publish(ctx, "source"); return err },
	"converge": func(ctx context.Context, p *publish.Publisher) error { _, err := p.Converge(ctx); return err },
	"snapshot": func(ctx context.Context, p *publish.Publisher) error { _, err := p.Snapshot(ctx, true); return err },
}

// A store in S3 has no lock. A publish that needs a snapshot of its own before its commit has its
// release current on the release volume meanwhile, and nobody else changes that.
func TestNobodyTouchesTheVolumeUnderAPublish(t *testing.T) {
	for verb, do := range verbs {
		t.Run(verb, func(t *testing.T) {
			w := newWorld("a")
			synctest.Test(t, func(t *testing.T) {
				var other error
				began := false
				w.hook = func(call string) error {
					if call == "snapshot" && !began {
						began = true
						other = do(t.Context(), w.publisher())
					}
					return nil
				}
				_, err := w.publisher().Publish(t.Context(), "source")
				if err != nil || exit.Code(other) != exit.Conflict || !strings.Contains(other.Error(), "another publish") {
					t.Errorf("the publish: %v; the other one: %v", err, other)
				}
			})
			if got := strings.Join(w.did("flip", "snapshot", "commit"), " "); got != "flip r2 at 2 snapshot commit" {
				t.Errorf("did %s", got)
			}
			if w.claimed {
				t.Error("the volume is still locked")
			}
		})
	}
}

// What was read of the pointer may be older than what a publish that ended meanwhile left here.
func TestVolumeIsNotTakenBackToAnOlderPointer(t *testing.T) {
	for verb, do := range verbs {
		t.Run(verb, func(t *testing.T) {
			w := newWorld("a")
			synctest.Test(t, func(t *testing.T) {
				began := false
				w.hook = func(call string) (err error) {
					if call == "check" && !began { // it has read the pointer
						began = true
						_, err = w.publisher().Publish(t.Context(), "source")
					}
					return err
				}
				err := do(t.Context(), w.publisher())
				if exit.Code(err) != exit.Conflict || !strings.Contains(err.Error(), "generation 2 was published meanwhile") {
					t.Errorf("it says %v", err)
				}
			})
			if got := w.did("flip"); !slices.Equal(got, []string{"flip r2 at 2"}) {
				t.Errorf("did %s", got)
			}
		})
	}
}

// Whoever boots from a snapshot refuses one that is not what the pointer says.
func TestSnapshotOfSomethingElseIsNotTaken(t *testing.T) {
	for name, change := range map[string]func(*world){
		"another release": func(w *world) { w.current = "r1" },
		"a higher fence":  func(w *world) { w.fence++ },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld("a")
			w.hook = func(call string) error {
				if call == "snapshot" {
					change(w)
				}
				return nil
			}
			_, code, err := w.run(t)
			if code == 0 || w.pointer.Generation != 1 || len(w.asked) != 0 || !strings.Contains(err.Error(), "is active, want r2 at 2") {
				t.Errorf("code %d, %v; the pointer is at %d, there is %v", code, err, w.pointer.Generation, w.asked)
			}
		})
	}
}

// Who is only behind waits for nobody, and changes nothing while a publish works on the volume.
func TestVolumeThatIsBusyIsLeftAlone(t *testing.T) {
	w := newWorld("a")
	elsewhere(w)
	w.claimed = true
	if _, code, err := w.converge(t); code != exit.Conflict || len(w.did("catch up", "flip", "activate")) != 0 {
		t.Errorf("code %d, %v; did %q", code, err, w.log)
	}
}

// Another publish that was overtaken may be late with its report, and EC2's listing is late, too:
// this one does not end before the tags are listed as it has reported them, and pauses in between.
func TestReportIsLookedAt(t *testing.T) {
	w := newWorld("a")
	var since time.Time
	late := 0
	w.onList = func(int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		b := w.boxes["a"]
		switch {
		case b.Generation != 2 || late == 100:
			return
		case since.IsZero():
			since = time.Now()
		}
		if time.Since(since) < 10*time.Second {
			late++
			b.Generation, b.Release = 1, "r1"
		}
	}
	o, code, err := w.runWithPacks(t)
	if b := w.boxes["a"]; code != 0 || o.OnIt != 1 || b.Generation != 2 || b.Release != "r2" {
		t.Errorf("code %d, %v, %+v; the tags say %d %s", code, err, o, b.Generation, b.Release)
	}
	if got := len(w.did("report")); got != late+1 || late < 3 || late > 15 {
		t.Errorf("%d reports, %d listings that said something else", got, late)
	}
}

// What this run would report may be overtaken since its round began.
func TestOvertakenPublishReportsNothing(t *testing.T) {
	w := newWorld("a")
	w.hook = func(call string) error {
		if call == "activate a" {
			w.pointer.Generation, w.pointer.By = 3, "another"
		}
		return nil
	}
	_, code, err := w.runWithPacks(t)
	if code != exit.Conflict || len(w.did("report")) != 0 || !strings.Contains(err.Error(), "published meanwhile by another") {
		t.Errorf("code %d, %v; did %q", code, err, w.log)
	}
}
