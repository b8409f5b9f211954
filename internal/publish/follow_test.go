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
	"ebs-release/internal/volume"
)

// follow publishes, or converges, where members follow by themselves: each time that they are
// listed, they do.
func (w *world) follow(t *testing.T, converge bool, do func()) (o publish.Outcome, err error) {
	t.Helper()
	w.onList = func(int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		do()
	}
	synctest.Test(t, func(t *testing.T) {
		p := w.publisher()
		p.Dialer = nil
		if converge {
			o, err = p.Converge(t.Context())
		} else {
			o, err = p.Publish(t.Context(), "source")
		}
	})
	if dials := w.did("dial", "report"); len(dials) > 0 {
		t.Errorf("%v, and nobody is to be dialed, or reported for", dials)
	}
	return o, err
}

// reports is what a member says of itself.
func (b *box) reports(generation int64, release, state string) {
	b.Generation, b.Release, b.State = generation, release, state
}

func TestMembersThatFollowAreWaitedFor(t *testing.T) {
	w := newWorld("a", "b")
	var committed time.Time
	o, err := w.follow(t, false, func() {
		switch {
		case w.pointer.Generation != 2:
			return
		case committed.IsZero():
			committed = time.Now()
		}
		if time.Since(committed) > 7*time.Second {
			w.boxes["a"].reports(2, "r2", volume.StateReady)
		}
		if time.Since(committed) > 12*time.Second {
			w.boxes["b"].reports(2, "r2", volume.StateReady)
		}
	})
	if err != nil || o.OnIt != 2 || o.Result != publish.ResultConverged || o.Live < 12_000 {
		t.Errorf("%+v, %v", o, err)
	}
	if !slices.ContainsFunc(w.events, func(e publish.Event) bool { return strings.Contains(e.Text, "nothing to stage") }) {
		t.Error("nothing is said of P3")
	}
}

func TestMemberThatDoesNotFollowIsNamed(t *testing.T) {
	w := newWorld("a", "b")
	o, err := w.follow(t, false, func() {
		if w.pointer.Generation == 2 {
			w.boxes["a"].reports(2, "r2", volume.StateReady)
		}
	})
	if exit.Code(err) != exit.NotConverged || o.OnIt != 1 ||
		!strings.Contains(err.Error(), "b: on generation 1; it has to follow by itself") || !strings.Contains(err.Error(), "enable --now ebs-release-follow.service") {
		t.Errorf("%+v, %v", o, err)
	}
}

// A program that fails ends a publish: the member has reported. A converge waits for what comes of
// its next tries.
func TestProgramThatFailsOnAMemberThatFollows(t *testing.T) {
	w := newWorld("a", "b")
	o, err := w.follow(t, false, func() {
		if w.pointer.Generation == 2 {
			w.boxes["a"].reports(2, "r2", volume.StateHookFailed)
			w.boxes["b"].reports(2, "r2", volume.StateReady)
		}
	})
	if exit.Code(err) != exit.NotConverged || !strings.Contains(err.Error(), "a hook failed on 1 of them: a: ") || !strings.Contains(err.Error(), "again by themselves") {
		t.Errorf("%v", err)
	}
	if took := time.Duration(o.Milliseconds) * time.Millisecond; took > time.Minute {
		t.Errorf("it took %v", took)
	}
	var began time.Time
	o, err = w.follow(t, true, func() {
		switch {
		case began.IsZero():
			began = time.Now()
		case time.Since(began) > time.Minute:
			w.boxes["a"].reports(2, "r2", volume.StateReady)
		}
	})
	if err != nil || o.OnIt != 2 {
		t.Errorf("%+v, %v", o, err)
	}
	w.boxes["a"].reports(2, "r2", volume.StateHookFailed)
	if _, err = w.follow(t, true, func() {}); exit.Code(err) != exit.NotConverged || !strings.Contains(err.Error(), "has not succeeded there") {
		t.Errorf("%v", err)
	}
}

func TestMembersThatFollowNeedNoOpenFiles(t *testing.T) {
	w := newWorld("a", "b")
	synctest.Test(t, func(t *testing.T) {
		p := w.publisher()
		p.Dialer, p.Settings.OpenFiles = nil, 10
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if _, err := p.Preview(ctx); err != nil {
			t.Error(err)
		}
	})
}
