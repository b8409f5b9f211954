package publish_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/fleet"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
)

// blind is a Health that cannot say anything from a time on.
type blind struct {
	since  time.Time
	lasts  time.Duration
	looked time.Time // for the last time, with an answer
}

func (b *blind) Look(context.Context, string, []fleet.Member) (map[string]string, error) {
	if !b.since.IsZero() && time.Since(b.since) < b.lasts {
		return nil, errors.New("Throttling")
	}
	b.looked = time.Now()
	return nil, nil
}

func (b *blind) Idle(context.Context) error { return nil }

// A bake in whose end nobody can say who is healthy is not over.
func TestNoBakeEndsBlind(t *testing.T) {
	for lasts, want := range map[time.Duration]int{8 * time.Minute: 0, time.Hour: exit.RolledBack} { // patience has 10m
		tr := newTrial("1", "a", "b", "c")
		tr.terms.Bake, tr.terms.Healthy = time.Minute, "group"
		health := &blind{lasts: lasts}
		tr.onEvent = func(e publish.RolloutEvent) {
			switch {
			case e.Event == publish.RolloutHealthy && health.since.IsZero():
				health.since = time.Now()
			case e.Event == publish.RolloutPassed && !health.looked.After(health.since):
				t.Error("a step is passed, and nobody has looked since its bake began")
			}
		}
		_, code, err := tr.do(t, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
			p.Health = health
			return source(ctx, p)
		})
		if code != want {
			t.Errorf("blind for %v: code %d, %v", lasts, code, err)
		}
	}
}

// Nobody is told that nothing was changed while a rollout is open.
func TestRolloutThatCannotBeEndedSaysSo(t *testing.T) {
	tr := newTrial("1", "a", "b", "c")
	tr.terms.Gate = "gate"
	tr.answer = func(string, publish.RolloutEvent) error {
		tr.hook = func(call string) error {
			if call == "commit" || call == "read" {
				return errors.New("the store is away")
			}
			return nil
		}
		return errors.New("no")
	}
	o, code, err := tr.do(t, source)
	if code != exit.Failed || o.Result != publish.ResultFailed || strings.Contains(err.Error(), "nothing was changed") ||
		!strings.Contains(err.Error(), "the rollout of generation 2 is open") {
		t.Errorf("code %d, %v, %+v", code, err, o)
	}
	if tr.pointer.Rollout == nil {
		t.Errorf("%+v", tr.pointer)
	}
}

// Programs have the reason in their environment, where one text may have 128 KiB.
func TestReasonIsBounded(t *testing.T) {
	tr := newTrial("1", "a", "b", "c")
	tr.terms.Gate = "gate"
	tr.answer = func(string, publish.RolloutEvent) error { return errors.New(strings.Repeat("no ", 100_000)) }
	longest := 0
	tr.onEvent = func(e publish.RolloutEvent) { longest = max(longest, len(e.Reason)) }
	if _, code, err := tr.do(t, source); code != exit.RolledBack {
		t.Errorf("code %d, %.200v", code, err)
	}
	if longest == 0 || longest > 4<<10 {
		t.Errorf("a reason of %d bytes", longest)
	}
}

// slowTell are programs that take their time.
type slowTell struct {
	*trial
	claimed bool // the release volume is, when the last of them runs
}

func (s *slowTell) Tell(context.Context, publish.RolloutEvent) error {
	time.Sleep(30 * time.Minute)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claimed = s.world.claimed
	return nil
}

// What only hears of a rollout keeps no rollback from the release volume.
func TestProgramsThatHearHoldNoLock(t *testing.T) {
	tr := newTrial("1", "a", "b", "c")
	slow := &slowTell{trial: tr}
	_, code, err := tr.do(t, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
		p.Asks = slow
		return source(ctx, p)
	})
	if code != 0 || slow.claimed {
		t.Errorf("code %d, %v; the volume is claimed: %v", code, err, slow.claimed)
	}
}

// A converge that began during a rollout does not say of its stable release that it is current when
// the rollout has come through.
func TestConvergeThatARolloutOvertakes(t *testing.T) {
	tr := newTrial("1", "a", "b", "c")
	tr.terms = pointer.Terms{Gate: "gate", NoRollback: true}
	tr.answer = func(string, publish.RolloutEvent) error { return errors.New("no") }
	if _, code, err := tr.do(t, source); code != exit.Paused {
		t.Fatal(err)
	}
	at := tr.listings + 2
	tr.onList = func(n int) {
		if n == at {
			tr.mu.Lock()
			defer tr.mu.Unlock()
			ro := *tr.pointer.Rollout
			tr.pointer.Generation, tr.pointer.Release, tr.pointer.Digest, tr.pointer.Rollout = ro.Generation, ro.Release, ro.Digest, nil
			tr.pointer.Revision++
		}
	}
	if _, code, err := tr.do(t, converge); code != exit.Conflict || !strings.Contains(err.Error(), "generation 2 was published meanwhile") {
		t.Errorf("code %d, %v", code, err)
	}
}

// A converge beside a driver goes by the share as it is: a member that gets the release meanwhile
// is not ahead of anything.
func TestConvergeBesideADriver(t *testing.T) {
	tr := newTrial("1", "a", "b", "c")
	tr.terms = pointer.Terms{Gate: "gate", NoRollback: true}
	tr.answer = func(string, publish.RolloutEvent) error { return errors.New("no") }
	if _, code, err := tr.do(t, source); code != exit.Paused {
		t.Fatal(err)
	}
	at := tr.listings + 1
	tr.onList = func(n int) {
		if n == at {
			tr.mu.Lock()
			defer tr.mu.Unlock()
			ro := *tr.pointer.Rollout
			ro.All = true
			tr.pointer.Rollout = &ro
			tr.pointer.Revision++
			for _, b := range tr.boxes { // as the driver does at once
				b.Generation, b.Release, b.fence = ro.Generation, ro.Release, ro.Generation
			}
		}
	}
	if o, code, err := tr.do(t, converge); code != 0 || o.Result != publish.ResultConverged {
		t.Errorf("code %d, %v, %+v", code, err, o)
	}
}

// As a commit, a rollout does not begin with a pack that gc may remove.
func TestRolloutRefusesAnOldPack(t *testing.T) {
	tr := newTrial("1", "a")
	synctest.Test(t, func(t *testing.T) {
		p := tr.publisher()
		p.Settings.MemberTimeout = 24 * time.Hour
		tr.hook = func(call string) error {
			if call == "stage a" {
				time.Sleep(13 * time.Hour)
			}
			return nil
		}
		_, err := p.Publish(t.Context(), "source")
		if exit.Code(err) != exit.Unchanged || !strings.Contains(err.Error(), "was made 13h0m0s ago") || tr.pointer.Rollout != nil {
			t.Errorf("code %d, %v", exit.Code(err), err)
		}
	})
}

// A driver that was suspended while a step baked has seen nothing of that time.
func TestASuspendedDriverDoesNotBake(t *testing.T) {
	tr := newTrial("1", "a", "b", "c")
	tr.terms = pointer.Terms{Bake: 20 * time.Minute, Gate: "gate"}
	var healthy time.Time
	var baked time.Duration
	tr.onEvent = func(e publish.RolloutEvent) {
		if e.Event == publish.RolloutHealthy && healthy.IsZero() {
			healthy = time.Now()
		}
	}
	suspended := false
	tr.onList = func(int) {
		if !healthy.IsZero() && !suspended && time.Since(healthy) > time.Minute {
			suspended = true
			time.Sleep(4 * time.Minute)
		}
	}
	tr.answer = func(string, publish.RolloutEvent) error {
		if baked == 0 {
			baked = time.Since(healthy)
		}
		return nil
	}
	if _, code, err := tr.do(t, source); code != 0 || baked < 23*time.Minute || baked > 25*time.Minute {
		t.Errorf("code %d, %v: the gate was asked after %v", code, err, baked)
	}
}

// Somebody else ends the rollout at the moment in which its driver does, by a rollback to another
// release: the generation is the same, and what the driver wrote did not come.
func TestAWayBackThatARollbackOvertakes(t *testing.T) {
	tr := newTrial("1", "a", "b", "c")
	tr.terms.Gate = "gate"
	tr.trees["r0"] = "d0"
	tr.answer = func(string, publish.RolloutEvent) error {
		tr.hook = func(call string) error {
			tr.mu.Lock()
			defer tr.mu.Unlock()
			if call == "commit" && tr.pointer.Rollout != nil {
				p := tr.pointer
				p.Generation, p.Release, p.Digest, p.Rollout, p.By = 3, "r0", "d0", nil, "somebody else"
				p.Revision++
				tr.pointer = p
			}
			return nil
		}
		return errors.New("no")
	}
	_, code, err := tr.do(t, source)
	if code != exit.Conflict || !strings.Contains(err.Error(), "was ended by somebody else, as generation 3") {
		t.Errorf("code %d, %v", code, err)
	}
}
