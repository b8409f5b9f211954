package publish_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/push"
)

// Somebody else's word, while the driver bakes: it stops, and changes nothing any more.
func TestDriverStopsWhenSomebodyElseActs(t *testing.T) {
	for name, tc := range map[string]struct {
		acts func(context.Context, *publish.Publisher) (publish.Outcome, error)
		code int
		says string
	}{
		"pause": {func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
			_, err := publish.Pause(ctx, p.Store, "eve: lunch")
			return publish.Outcome{}, err
		}, exit.Paused, "eve: lunch"},
		"abort":  {abort, exit.Conflict, "was ended by tester, as generation 3"},
		"finish": {func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) { return p.Finish(ctx) }, exit.Conflict, "was finished by"},
		"taken over": {func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
			return p.Resume(ctx, true)
		}, exit.Conflict, "is driven by tester now"},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTrial("1", "a", "b", "c")
			tr.terms.Bake = time.Hour
			var driver error
			_, code, err := tr.do(t, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
				healthy, ended := make(chan struct{}), make(chan struct{})
				tr.onEvent = func(e publish.RolloutEvent) {
					if e.Event == publish.RolloutHealthy && healthy != nil {
						close(healthy)
						healthy = nil
					}
				}
				wait := healthy
				go func() {
					defer close(ended)
					_, driver = source(ctx, p)
				}()
				<-wait
				other := tr.publisher()
				other.Talk = nil
				o, err := tc.acts(ctx, other)
				<-ended
				return o, err
			})
			if code != 0 || exit.Code(driver) != tc.code || driver == nil || !strings.Contains(driver.Error(), tc.says) {
				t.Errorf("code %d, %v; the driver: %v", code, err, driver)
			}
			switch name {
			case "abort":
				tr.everybodyIsOn(t, 3, "r1")
			case "finish", "taken over":
				tr.everybodyIsOn(t, 2, "r2")
			}
		})
	}
}

func TestInterruptedRolloutIsTakenUp(t *testing.T) {
	tr := newTrial("1", "a", "b", "c")
	tr.terms.Bake = time.Hour
	tr.onEvent = func(e publish.RolloutEvent) {
		if e.Event == publish.RolloutHealthy {
			tr.interrupt()
		}
	}
	_, code, err := tr.do(t, source)
	if code != exit.Interrupted || !strings.Contains(err.Error(), "stays at step 1 of 2 (1)") || tr.pointer.Rollout == nil {
		t.Fatalf("code %d, %v", code, err)
	}
	tr.onEvent = nil
	if _, code, err := tr.do(t, resume); code != 0 {
		t.Fatal(err)
	}
	tr.everybodyIsOn(t, 2, "r2")
}

// Who takes a rollout up and is interrupted at once gives it back.
func TestInterruptedResume(t *testing.T) {
	tr := newTrial("1", "a", "b", "c")
	tr.terms = pointer.Terms{Gate: "gate", NoRollback: true}
	tr.answer = func(string, publish.RolloutEvent) error { return errors.New("no") }
	if _, code, err := tr.do(t, source); code != exit.Paused {
		t.Fatal(err)
	}
	tr.answer = nil
	tr.hook = func(call string) error {
		if call == "list" {
			tr.interrupt()
			return context.Canceled
		}
		return nil
	}
	if _, code, err := tr.do(t, resume); code != exit.Interrupted || !strings.Contains(err.Error(), "stays at step 1 of 2") {
		t.Errorf("code %d, %v", code, err)
	}
	tr.hook = nil
	if _, code, err := tr.do(t, resume); code != 0 {
		t.Error(err)
	}
	tr.everybodyIsOn(t, 2, "r2")
}

// killedAtAStep is a rollout whose driver dies at its first step.
func (tr *trial) killedAtAStep(ctx context.Context, p *publish.Publisher) {
	tr.onEvent = func(e publish.RolloutEvent) {
		if e.Event == publish.RolloutStep {
			panic("killed")
		}
	}
	func() {
		defer func() { _ = recover() }()
		_, _ = source(ctx, p)
	}()
	tr.onEvent, tr.locked, tr.claimed = nil, false, false
}

// While a driver has written in time nobody takes its place by mistake; when it has not, anybody.
func TestLease(t *testing.T) {
	tr := newTrial("1", "a", "b", "c")
	if _, code, err := tr.do(t, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
		tr.killedAtAStep(ctx, p)
		if _, err := resume(ctx, tr.publisher()); exit.Code(err) != exit.Conflict || !strings.Contains(err.Error(), "drives it") {
			t.Errorf("%v", err)
		}
		time.Sleep(6 * time.Minute)
		return resume(ctx, tr.publisher())
	}); code != 0 {
		t.Fatal(err)
	}
	tr.everybodyIsOn(t, 2, "r2")
}

// The clock of who began a rollout was a day ahead when it was killed. That keeps nobody off.
func TestLeaseByAWrongClock(t *testing.T) {
	tr := newTrial("1", "a", "b", "c")
	if _, code, err := tr.do(t, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
		tr.killedAtAStep(ctx, p)
		ro := *tr.pointer.Rollout
		ro.Until = ro.Until.Add(24 * time.Hour)
		tr.pointer.Rollout = &ro
		if said := publish.SayRollout(tr.pointer, time.Now()); !strings.Contains(said, "whose clock is wrong") {
			t.Error(said)
		}
		return resume(ctx, tr.publisher())
	}); code != 0 {
		t.Fatal(err)
	}
	tr.everybodyIsOn(t, 2, "r2")
}

// What is away already counts: one sick member with the old release, and only one may be away.
func TestAtOnceCountsWhoIsAwayAlready(t *testing.T) {
	tr := newTrial("all", "a", "b", "c", "d")
	tr.terms = pointer.Terms{AtOnce: 1, HealthTimeout: time.Minute}
	tr.reasons = func() map[string]string {
		if tr.boxes["b"].Release == "r1" && tr.pointer.Rollout != nil {
			return map[string]string{"b": "unhealthy"}
		}
		return nil
	}
	_, code, err := tr.do(t, source)
	if code != exit.RolledBack || !strings.Contains(err.Error(), "no progress for 1m0s: 1 member cannot serve") {
		t.Errorf("code %d, %v", code, err)
	}
	tr.everybodyIsOn(t, 3, "r1")
}

func TestAtOnceIsNeverExceeded(t *testing.T) {
	tr := newTrial("all", "a", "b", "c", "d", "e", "f", "g", "h")
	tr.terms = pointer.Terms{AtOnce: 2}
	ready := map[string]time.Time{} // a member is healthy a while after it flipped
	most := 0
	tr.reasons = func() map[string]string {
		sick := map[string]string{}
		for _, id := range tr.on("r2") {
			if ready[id].IsZero() {
				ready[id] = time.Now().Add(20 * time.Second)
			}
			if time.Now().Before(ready[id]) {
				sick[id] = "initial"
			}
		}
		most = max(most, len(sick))
		return sick
	}
	if _, code, err := tr.do(t, source); code != 0 || most != 2 {
		t.Errorf("code %d, %v; %d were away at once", code, err, most)
	}
	tr.everybodyIsOn(t, 2, "r2")
}

// However many failures are allowed, a step without a healthy member counts for nothing.
func TestStepWithoutAHealthyMember(t *testing.T) {
	tr := newTrial("1", "a", "b", "c")
	for _, b := range tr.boxes {
		b.activate = func(context.Context) error {
			if tr.pointer.Rollout != nil {
				return &push.HookError{}
			}
			return nil
		}
	}
	_, code, err := tr.do(t, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
		p.Settings.MaxFailures, _ = publish.ParseMaxFailures("100%")
		return source(ctx, p)
	})
	if code != exit.RolledBack || !strings.Contains(err.Error(), "0 of 1 members are healthy") {
		t.Errorf("code %d, %v", code, err)
	}
	tr.everybodyIsOn(t, 3, "r1")
}

// A failure that is allowed holds nothing up.
func TestFailuresThatAreAllowed(t *testing.T) {
	tr := newTrial("50%", "a", "b", "c", "d")
	var asked atomic.Int32 // two are activated at once
	for _, b := range tr.boxes {
		b.activate = func(context.Context) error {
			if asked.Add(1) == 1 {
				return &push.HookError{}
			}
			return nil
		}
	}
	_, code, err := tr.do(t, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
		p.Settings.MaxFailures, _ = publish.ParseMaxFailures("1")
		return source(ctx, p)
	})
	if code != exit.NotConverged || tr.pointer.Release != "r2" || tr.pointer.Rollout != nil {
		t.Errorf("code %d, %v, %+v", code, err, tr.pointer)
	}
}

func TestOldWordsWantABake(t *testing.T) {
	for bake, warned := range map[time.Duration]bool{0: true, time.Minute: false} {
		tr := newTrial("1", "a", "b")
		tr.terms = pointer.Terms{Healthy: "target-groups", Bake: bake}
		if _, code, err := tr.do(t, source); code != 0 {
			t.Fatal(err)
		}
		if got := slices.ContainsFunc(tr.events, func(e publish.Event) bool { return strings.Contains(e.Text, "without a bake") }); got != warned {
			t.Errorf("bake %v: warned %v", bake, got)
		}
	}
}

// The driver writes again in time, however long a step bakes.
func TestLeaseIsRenewed(t *testing.T) {
	tr := newTrial("1", "a", "b", "c")
	tr.terms = pointer.Terms{Bake: time.Hour, Gate: "gate"}
	tr.answer = func(string, publish.RolloutEvent) error {
		if left := time.Until(tr.pointer.Rollout.Until); left <= 0 {
			t.Errorf("it was to write %v ago", -left)
		}
		return nil
	}
	if _, code, err := tr.do(t, source); code != 0 {
		t.Fatal(err)
	}
}

// A watch that is asked while a gate runs is not ended with the gate.
func TestSlowWatchBesideAGate(t *testing.T) {
	tr := newTrial("1", "a", "b", "c")
	tr.terms = pointer.Terms{Gate: "gate", Watch: "watch"}
	tr.answer = func(command string, _ publish.RolloutEvent) error {
		time.Sleep(map[string]time.Duration{"gate": 35 * time.Second, "watch": 7 * time.Second}[command])
		return nil
	}
	if _, code, err := tr.do(t, source); code != 0 {
		t.Errorf("code %d, %v", code, err)
	}
}

// Where the only member of a step leaves, another one is given the release, and bakes anew.
func TestMemberOfAStepLeaves(t *testing.T) {
	tr := newTrial("1", "a", "b", "c")
	tr.terms = pointer.Terms{Bake: time.Hour, Gate: "gate"}
	left := ""
	tr.onEvent = func(e publish.RolloutEvent) {
		if e.Event == publish.RolloutHealthy && left == "" {
			left = e.Instances[0]
			go func() {
				time.Sleep(30 * time.Minute)
				tr.mu.Lock()
				defer tr.mu.Unlock()
				delete(tr.boxes, left)
			}()
		}
	}
	var given []string
	var took time.Duration
	_, code, err := tr.do(t, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
		began := time.Now()
		tr.answer = func(_ string, e publish.RolloutEvent) error {
			if given == nil {
				given, took = e.Instances, time.Since(began)
			}
			return nil
		}
		return source(ctx, p)
	})
	if code != 0 || len(given) != 1 || given[0] == left || took < 90*time.Minute {
		t.Errorf("code %d, %v: %s left, the gate was asked about %v after %v", code, err, left, given, took)
	}
}

// Who launches during a rollout is on its side, and all are in the end.
func TestMembersLaunchDuringARollout(t *testing.T) {
	tr := newTrial("1,50%", "a", "b", "c", "d")
	tr.terms.Bake = time.Minute
	n := 0
	tr.onEvent = func(e publish.RolloutEvent) {
		if e.Event != publish.RolloutHealthy {
			return
		}
		n++
		tr.mu.Lock()
		defer tr.mu.Unlock()
		b := tr.launch(fmt.Sprintf("new%d", n), 1)
		b.AvailabilityZone = "a"
	}
	o, code, err := tr.do(t, source)
	if code != 0 || o.Total < 6 {
		t.Fatalf("code %d, %v, %+v", code, err, o)
	}
	tr.everybodyIsOn(t, 2, "r2")
}

// Many that launch with the release, and are not healthy for a while, neither hold a step up nor
// make the driver ask without a pause.
func TestManyLaunchDuringAStep(t *testing.T) {
	tr := newTrial("1,50%", "a", "b", "c", "d", "e", "f")
	tr.terms.AtOnce = 1
	var until time.Time
	ready := map[string]time.Time{} // a member is healthy a while after it flipped
	tr.reasons = func() map[string]string {
		sick := map[string]string{}
		for id, b := range tr.boxes {
			if b.Release == "r2" && ready[id].IsZero() {
				ready[id] = time.Now().Add(20 * time.Second)
			}
			if strings.HasPrefix(id, "new") && time.Now().Before(until) || time.Now().Before(ready[id]) {
				sick[id] = "initial"
			}
		}
		return sick
	}
	tr.onEvent = func(e publish.RolloutEvent) {
		if e.Event == publish.RolloutPassed && e.Step == 2 {
			given := slices.DeleteFunc(slices.Clone(e.Instances), func(id string) bool { return len(id) > 1 })
			if len(given) != 3 {
				t.Errorf("of six that were there, %v were given it", given)
			}
		}
		if e.Event != publish.RolloutStep || e.Step != 2 {
			return
		}
		go func() {
			time.Sleep(100 * time.Millisecond)
			tr.mu.Lock()
			defer tr.mu.Unlock()
			until = time.Now().Add(5 * time.Minute)
			for i := range 20 {
				tr.launch(fmt.Sprintf("new%d", i), 1).AvailabilityZone = []string{"a", "b", "c"}[i%3]
			}
		}()
	}
	_, code, err := tr.do(t, source)
	if code != 0 || tr.listings > 300 {
		t.Errorf("code %d, %v, after %d listings", code, err, tr.listings)
	}
	tr.everybodyIsOn(t, 2, "r2")
}

// An abort needs no member: it is written, and says who is still to be brought back.
func TestAbortIsNotHeldUpByMembers(t *testing.T) {
	tr := newTrial("1", "a", "b", "c")
	tr.terms = pointer.Terms{Gate: "gate", NoRollback: true}
	tr.answer = func(string, publish.RolloutEvent) error { return errors.New("no") }
	if _, code, err := tr.do(t, source); code != exit.Paused {
		t.Fatal(err)
	}
	for _, b := range tr.boxes {
		b.dial = push.ErrUnreachable
	}
	var wrote time.Duration
	_, code, err := tr.do(t, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
		began := time.Now()
		tr.onEvent = func(e publish.RolloutEvent) {
			if e.Event == publish.RolloutBack {
				wrote = time.Since(began)
			}
		}
		return abort(ctx, p)
	})
	if code != exit.NotConverged || tr.pointer.Generation != 3 || tr.pointer.Release != "r1" || tr.pointer.Rollout != nil || wrote > time.Second {
		t.Errorf("code %d, %v after %v, %+v", code, err, wrote, tr.pointer)
	}
	for _, b := range tr.boxes {
		b.dial = nil
	}
	if _, code, err := tr.do(t, converge); code != 0 {
		t.Error(err)
	}
	tr.everybodyIsOn(t, 3, "r1")
}

// Where members cannot be brought back the exit code says that, and the line why it went back.
func TestWayBackThatDoesNotConverge(t *testing.T) {
	tr := newTrial("1", "a", "b", "c")
	tr.terms.Gate = "gate"
	tr.answer = func(string, publish.RolloutEvent) error { return errors.New("no") }
	for _, b := range tr.boxes {
		b.activate = func(context.Context) error {
			if tr.pointer.Generation == 3 {
				return push.ErrLost
			}
			return nil
		}
	}
	_, code, err := tr.do(t, source)
	if code != exit.NotConverged || !strings.Contains(err.Error(), "the gate is red: no") || !strings.Contains(err.Error(), "run `ebs-release converge`") {
		t.Errorf("code %d, %v", code, err)
	}
	if p := tr.pointer; p.Generation != 3 || p.Release != "r1" || p.Rollout != nil {
		t.Errorf("%+v", p)
	}
}

// A rollback to any release ends a rollout, too, and goes through a hold.
func TestRollbackEndsARollout(t *testing.T) {
	tr := newTrial("1", "a", "b", "c")
	tr.trees["r0"] = "d0"
	tr.terms = pointer.Terms{Gate: "gate", NoRollback: true}
	tr.answer = func(string, publish.RolloutEvent) error { return errors.New("no") }
	if _, code, err := tr.do(t, source); code != exit.Paused {
		t.Fatal(err)
	}
	tr.pointer.Hold = &pointer.Hold{Why: "incident 7", By: "eve"}
	_, code, err := tr.do(t, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
		return p.Rollback(ctx, func(context.Context, pointer.Pointer) (publish.Target, error) {
			return publish.Target{Release: "r0", Digest: "d0"}, nil
		})
	})
	if code != 0 || tr.pointer.Hold == nil {
		t.Errorf("code %d, %v, %+v", code, err, tr.pointer)
	}
	tr.everybodyIsOn(t, 3, "r0")
}

// A converge during a rollout brings each member to its own side.
func TestConvergeDuringARollout(t *testing.T) {
	tr := newTrial("1", "a", "b", "c")
	tr.terms = pointer.Terms{Gate: "gate", NoRollback: true}
	tr.answer = func(string, publish.RolloutEvent) error { return errors.New("no") }
	if _, code, err := tr.do(t, source); code != exit.Paused {
		t.Fatal(err)
	}
	canary := tr.on("r2")
	for _, b := range tr.boxes { // all volumes are new
		b.Generation, b.Release, b.fence = 1, "r1", 1
	}
	if _, code, err := tr.do(t, converge); code != 0 || !slices.Equal(tr.on("r2"), canary) || len(canary) != 1 {
		t.Errorf("code %d, %v: %v were on it, now %v", code, err, canary, tr.on("r2"))
	}
}

// Both releases of an open rollout are kept, whatever --keep says.
func TestKeepDuringARollout(t *testing.T) {
	keep, all := publish.Kept(1, []gc.Generation{{Number: 1, Release: "r1"}},
		pointer.Pointer{Generation: 1, Rollout: &pointer.Rollout{Held: pointer.Held{Generation: 2, Release: "r2"}}})
	if keep != 2 || !slices.Equal(gc.Releases(all), []string{"r2", "r1"}) {
		t.Errorf("%d, %+v", keep, all)
	}
}
