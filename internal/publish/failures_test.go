package publish_test

import (
	"cmp"
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
	"ebs-release/internal/push"
)

// publishWith publishes in a bubble, with a publisher that change has changed.
func (w *world) publishWith(t *testing.T, change func(*publish.Publisher)) (o publish.Outcome, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := w.publisher()
		change(p)
		o, err = p.Publish(t.Context(), "source")
	})
	return o, err
}

func maxFailures(t *testing.T, value string, parallel int) func(*publish.Publisher) {
	t.Helper()
	most, err := publish.ParseMaxFailures(value)
	if err != nil {
		t.Fatal(err)
	}
	return func(p *publish.Publisher) { p.Settings.MaxFailures, p.Settings.Parallel = most, parallel }
}

func TestMaxFailuresAfterTheCommitBeginsNoNewMember(t *testing.T) {
	for _, value := range []string{"1", "25%"} {
		t.Run(value, func(t *testing.T) {
			w := newWorld("a", "b", "c", "d", "e")
			w.boxes["a"].refuses, w.boxes["b"].refuses = errors.New("boom"), errors.New("boom")
			o, err := w.publishWith(t, maxFailures(t, value, 1))
			if exit.Code(err) != exit.NotConverged || !o.Committed || o.Generation != 2 || o.Result != publish.ResultNotConverged {
				t.Fatalf("code %d, %v, %+v", exit.Code(err), err, o)
			}
			for _, want := range []string{"generation 2 is committed", "2 of 5, --max-failures " + value, "a, b: boom", "run `ebs-release converge` to go on"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want %q in it", err, want)
				}
			}
			tried := w.did("activate") // in an order of their own
			last := max(slices.Index(tried, "activate a"), slices.Index(tried, "activate b"))
			if last != len(tried)-1 || o.OnIt != len(tried)-2 {
				t.Errorf("tried %v, %d are on it: want none to be begun once a and b have failed", tried, o.OnIt)
			}
		})
	}
}

func TestMaxFailuresStopsNobodyWhoIsUnderWay(t *testing.T) {
	w := newWorld("a", "b")
	w.boxes["a"].activate = func(context.Context) error {
		time.Sleep(time.Second) // of the bubble's clock: b is under way by then, whoever of the two began first
		return errors.New("boom")
	}
	w.boxes["b"].activate = func(ctx context.Context) error {
		select {
		case <-time.After(30 * time.Second): // longer than a round
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	o, err := w.publishWith(t, maxFailures(t, "0", 2))
	if exit.Code(err) != exit.NotConverged || o.OnIt != 1 || w.boxes["b"].fence != 2 || !strings.Contains(err.Error(), "1 of 2") {
		t.Errorf("code %d, %v, %+v", exit.Code(err), err, o)
	}
}

func TestMaxFailuresDoesNotCountMembersThatAreGone(t *testing.T) {
	w := newWorld("a", "b", "c")
	w.boxes["a"].refuses, w.boxes["b"].refuses = errors.New("boom"), errors.New("boom")
	w.onList = func(n int) {
		if n == 4 { // the second listing of P5
			delete(w.boxes, "b")
			w.boxes["a"].refuses = nil
		}
	}
	o, err := w.publishWith(t, maxFailures(t, "1", 1))
	if err != nil || o.OnIt != 2 || o.Gone != 1 {
		t.Errorf("%v, %+v", err, o)
	}
}

// tries says when a call was made, in a publish whose jitter is the same part of what it may be.
func tries(t *testing.T, w *world, call string, jitter func(time.Duration) time.Duration) (at []time.Duration, err error) {
	t.Helper()
	var start time.Time
	w.hook = func(made string) error {
		switch {
		case made == "lock":
			start = time.Now()
		case made == call:
			at = append(at, time.Since(start))
		}
		return nil
	}
	_, err = w.publishWith(t, func(p *publish.Publisher) { p.Jitter = jitter })
	return at, err
}

func least(time.Duration) time.Duration         { return 0 }
func largest(below time.Duration) time.Duration { return below - 1 }

// gaps are the pauses between.
func gaps(at []time.Duration) (between []time.Duration) {
	for i := range len(at) - 1 {
		between = append(between, at[i+1]-at[i])
	}
	return between
}

func TestTransferIsTriedAgainAfterGrowingPauses(t *testing.T) {
	for _, tc := range []struct {
		name   string
		jitter func(time.Duration) time.Duration
		want   []time.Duration
	}{
		{"least", least, []time.Duration{500 * time.Millisecond, time.Second}},
		{"largest", largest, []time.Duration{1500*time.Millisecond - 1, 3*time.Second - 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld("a", "b")
			w.boxes["a"].stage = func(context.Context) error { return errors.New("connection reset") }
			at, err := tries(t, w, "stage a", tc.jitter)
			if got := gaps(at); exit.Code(err) != exit.NotConverged || len(got) < 2 || !slices.Equal(got[:2], tc.want) {
				t.Errorf("%v, pauses %v, want %v first", err, got, tc.want)
			}
		})
	}
}

// After the commit a member that fails is tried again at the first listing after its pause, which
// doubles: up to 5 s for what may pass by itself, up to a minute for what a person has to fix.
// Listings are 5 s apart at most.
func TestMemberThatFailsIsTriedMoreAndMoreSeldom(t *testing.T) {
	const listing = 5 * time.Second
	for _, tc := range []struct {
		name        string
		err         error
		first, most time.Duration
		jitter      func(time.Duration) time.Duration
	}{
		{"lost, least", errors.New("connection reset"), 500 * time.Millisecond, 5 * time.Second, least},
		{"lost, largest", errors.New("connection reset"), 500 * time.Millisecond, 5 * time.Second, largest},
		{"full, least", push.ErrNoSpace, 2 * time.Second, time.Minute, least},
		{"full, largest", push.ErrNoSpace, 2 * time.Second, time.Minute, largest},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld("a", "b")
			w.boxes["a"].refuses = tc.err
			at, err := tries(t, w, "activate a", tc.jitter)
			if exit.Code(err) != exit.NotConverged || len(at) < 8 {
				t.Fatalf("%v, tries at %v", err, at)
			}
			pause := tc.first
			for i, gap := range gaps(at) {
				if want := pause*3/4 + tc.jitter(pause/2); gap < want || gap > want+listing {
					t.Errorf("pause %d is %v, want %v and at most %v more", i+1, gap, want, listing)
				}
				pause = min(2*pause, tc.most)
			}
		})
	}
}

func TestMemberThatComesBackElsewhereIsTriedAtOnce(t *testing.T) {
	w := newWorld("a", "b")
	w.boxes["a"].refuses = push.ErrNoSpace
	var back, mended time.Time
	w.onList = func(n int) {
		if n == 12 {
			a := w.boxes["a"]
			a.VolumeID, a.refuses, a.has = "vol-new", nil, map[string]bool{}
			back = time.Now()
		}
	}
	w.hook = func(call string) error {
		if call == "activate a" && !back.IsZero() && mended.IsZero() {
			mended = time.Now()
		}
		return nil
	}
	o, err := w.publishWith(t, func(*publish.Publisher) {})
	if err != nil || o.OnIt != 2 || back.IsZero() || mended.Sub(back) > time.Second {
		t.Errorf("%v, %+v, tried %v after it came back", err, o, mended.Sub(back))
	}
}

// All are out of reach, or full, and the release that is current is bad: what launches gets another
// one.
func TestForceAndEveryRollbackGoOnWithoutAnyMember(t *testing.T) {
	back := func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
		return p.Rollback(ctx, func(context.Context, pointer.Pointer) (publish.Target, error) {
			return publish.Target{Generation: 1, Release: "r1", Digest: "d1", SnapshotID: "snap-1"}, nil
		})
	}
	forced := func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
		p.Settings.Force = true
		return p.Publish(ctx, "source")
	}
	for _, tc := range []struct {
		name, fails, warned, most string
		do                        func(context.Context, *publish.Publisher) (publish.Outcome, error)
		code                      int
	}{
		{"publish, out of reach", "dial", "none of 2 members can be reached", "", forced, exit.NotConverged},
		{"publish, full", "stage", "none of 2 members could take the release", "", forced, exit.NotConverged},
		{"rollback, out of reach", "dial", "none of 2 members can be reached", "", back, exit.NotConverged},
		{"rollback, full", "stage", "none of 2 members could take the release", "", back, exit.NotConverged},
		{"more failed than may", "stage", "", "1", forced, exit.Unchanged},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld("a", "b")
			w.hook = func(call string) error {
				if strings.HasPrefix(call, tc.fails) {
					return errors.New("boom")
				}
				return nil
			}
			var o publish.Outcome
			var err error
			synctest.Test(t, func(t *testing.T) {
				p := w.publisher()
				if tc.most != "" {
					maxFailures(t, tc.most, 4)(p)
				}
				o, err = tc.do(t.Context(), p)
			})
			if exit.Code(err) != tc.code || o.Committed != (tc.code == exit.NotConverged) || o.OnIt != 0 && o.Committed {
				t.Errorf("code %d: %v; outcome %+v", exit.Code(err), err, o)
			}
			warned := slices.ContainsFunc(w.events, func(e publish.Event) bool {
				return e.Kind == publish.KindWarning && strings.Contains(e.Text, cmp.Or(tc.warned, "none of")) && strings.Contains(e.Text, "goes on")
			})
			if warned != (tc.warned != "") {
				t.Errorf("warned %v: %+v", warned, w.events)
			}
		})
	}
}
