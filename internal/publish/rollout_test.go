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

	"ebs-release/internal/exit"
	"ebs-release/internal/fleet"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/push"
)

// trial is a world whose publishes give a release to a share first.
type trial struct {
	*world
	steps   string
	terms   pointer.Terms
	answer  func(command string, about publish.RolloutEvent) error // of gate and watch
	busy    error
	reasons func() map[string]string // who is not healthy
	onEvent func(e publish.RolloutEvent)
	heard   []string
}

func newTrial(steps string, members ...string) *trial {
	w := newWorld(members...)
	w.pointer.Schema = pointer.Signed
	for i, b := range slices.Sorted(mapsKeys(w.boxes)) {
		w.boxes[b].AvailabilityZone = []string{"a", "b", "c"}[i%3]
	}
	return &trial{world: w, steps: steps}
}

func mapsKeys(m map[string]*box) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func (tr *trial) Ask(ctx context.Context, command string, about publish.RolloutEvent) error {
	if tr.answer == nil {
		return nil
	}
	return errors.Join(tr.answer(command, about), ctx.Err())
}

func (tr *trial) Tell(_ context.Context, about publish.RolloutEvent) error {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.heard = append(tr.heard, fmt.Sprintf("%s %d", about.Event, about.Step))
	return nil
}

func (tr *trial) Look(_ context.Context, by string, _ []fleet.Member) (map[string]string, error) {
	if by != tr.terms.Healthy {
		return nil, fmt.Errorf("asked by %q", by)
	}
	return tr.reasons(), nil
}

func (tr *trial) Idle(context.Context) error { return tr.busy }

func (tr *trial) publisher() *publish.Publisher {
	p := tr.world.publisher()
	p.Keys, p.Asks = nil, tr
	if tr.reasons != nil {
		p.Health = tr
	}
	for text := range strings.SplitSeq(tr.steps, ",") {
		step, err := pointer.ParseStep(text)
		if err != nil {
			panic(err)
		}
		p.Settings.Steps = append(p.Settings.Steps, step)
	}
	p.Settings.Terms = tr.terms
	talk := p.Talk
	p.Talk = func(e publish.Event) {
		talk(e)
		if e.Rollout != nil && tr.onEvent != nil {
			tr.onEvent(*e.Rollout)
		}
	}
	return p
}

// do runs something in a bubble of its own time.
func (tr *trial) do(t *testing.T, do func(context.Context, *publish.Publisher) (publish.Outcome, error)) (o publish.Outcome, code int, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		tr.interrupt = cancel
		o, err = do(ctx, tr.publisher())
		code = exit.Code(err)
	})
	if tr.locked {
		t.Error("the lock is still held")
	}
	return o, code, err
}

func source(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
	return p.Publish(ctx, "source")
}

func resume(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
	return p.Resume(ctx, false)
}

func abort(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
	return p.Abort(ctx, "why")
}

// on returns the members that are on a release, by what they report.
func (tr *trial) on(id string) (members []string) {
	for name, b := range tr.boxes {
		if b.Release == id {
			members = append(members, name)
		}
	}
	slices.Sort(members)
	return members
}

func (tr *trial) everybodyIsOn(t *testing.T, generation int64, release string) {
	t.Helper()
	if p := tr.pointer; p.Generation != generation || p.Release != release || p.Rollout != nil {
		t.Errorf("the pointer is %+v", p)
	}
	for id, b := range tr.boxes {
		if b.fence != generation || b.Generation != generation || b.Release != release {
			t.Errorf("%s reports generation %d, release %s, and its fence is %d", id, b.Generation, b.Release, b.fence)
		}
	}
}

// Members of both sides get a new key with the rollout's pointer, and who has it is told by its
// generation.
func TestRolloutHandsANewKeyOn(t *testing.T) {
	tr := newTrial("1", "a", "b", "c")
	tr.pointer.Keys = []string{"old"}
	_, code, err := tr.do(t, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
		p.Keys = []string{"new", "old"}
		return p.Publish(ctx, "source")
	})
	if code != 0 || tr.pointer.KeysSince != 2 || !slices.Equal(tr.pointer.Keys, []string{"new", "old"}) {
		t.Errorf("code %d, %v: keys %v since %d", code, err, tr.pointer.Keys, tr.pointer.KeysSince)
	}
}

func TestRolloutComesThroughStepByStep(t *testing.T) {
	tr := newTrial("1,50%", "a", "b", "c", "d", "e", "f")
	tr.terms = pointer.Terms{Bake: time.Minute, Gate: "gate", Watch: "watch"}
	var given []int
	var asked []string
	tr.answer = func(command string, e publish.RolloutEvent) error {
		if command == "gate" {
			given = append(given, len(tr.on("r2")))
			asked = append(asked, fmt.Sprintf("%d/%d %s: %d of %d", e.Step, e.Steps, e.Share, e.Healthy, e.Members))
		}
		return nil
	}
	o, code, err := tr.do(t, source)
	if err != nil || code != 0 || o.Result != publish.ResultConverged || o.OnIt != 6 {
		t.Fatalf("code %d, %v, %+v", code, err, o)
	}
	tr.everybodyIsOn(t, 2, "r2")
	if !slices.Equal(given, []int{1, 3, 6}) {
		t.Errorf("at the gates %v members had it", given)
	}
	if want := []string{"1/3 1: 1 of 6", "2/3 50%: 3 of 6", "3/3 all: 6 of 6"}; !slices.Equal(asked, want) {
		t.Errorf("the gate was told %q", asked)
	}
	if o.Milliseconds < 180_000 {
		t.Errorf("three bakes of a minute took %d ms", o.Milliseconds)
	}
	want := "began 1 step 1 healthy 1 passed 1 step 2 healthy 2 passed 2 step 3 healthy 3 passed 3 finished 3"
	if got := strings.Join(tr.heard, " "); got != want {
		t.Errorf("heard %s\nwant  %s", got, want)
	}
	if packs := strings.Join(tr.did("pack"), ","); packs != "pack r1 r2,pack r2 r1" {
		t.Errorf("%s: there has to be a way back", packs)
	}
	if tr.current != "r2" || tr.fence != 2 {
		t.Errorf("the release volume is on %s at %d", tr.current, tr.fence)
	}
}

// During a rollout the release volume stays where the pointer is, and no lock is held.
func TestRolloutHoldsNoLock(t *testing.T) {
	tr := newTrial("1", "a", "b")
	tr.terms.Gate = "gate"
	tr.answer = func(string, publish.RolloutEvent) error {
		if tr.locked || tr.claimed || tr.current != "r1" || tr.pointer.Generation != 1 || tr.pointer.Rollout.Generation != 2 {
			t.Errorf("locked %v, claimed %v, current %s, %+v", tr.locked, tr.claimed, tr.current, tr.pointer)
		}
		return nil
	}
	if _, code, err := tr.do(t, source); code != 0 {
		t.Fatal(err)
	}
}

// A member whose programs fail stops the release at the first step, and it goes back.
func TestRolloutGoesBackByItself(t *testing.T) {
	for name, spoil := range map[string]func(tr *trial){
		"its programs fail": func(tr *trial) {
			for _, b := range tr.boxes {
				b.activate = func(context.Context) error {
					if tr.pointer.Rollout != nil {
						return &push.HookError{}
					}
					return nil
				}
			}
		},
		"not healthy in time": func(tr *trial) {
			tr.terms.HealthTimeout = time.Minute
			tr.reasons = func() map[string]string {
				sick := map[string]string{}
				for _, id := range tr.on("r2") {
					sick[id] = "initial"
				}
				return sick
			}
		},
		"sick while it bakes": func(tr *trial) {
			var began time.Time
			tr.terms.Bake = time.Hour
			tr.reasons = func() map[string]string {
				sick := map[string]string{}
				for _, id := range tr.on("r2") {
					if began.IsZero() {
						began = time.Now()
					}
					if time.Since(began) > 10*time.Minute {
						sick[id] = "unhealthy"
					}
				}
				return sick
			}
		},
		"the gate is red": func(tr *trial) {
			tr.terms.Gate = "gate"
			tr.answer = func(string, publish.RolloutEvent) error { return errors.New("no") }
		},
		"the watch turns red": func(tr *trial) {
			tr.terms.Bake, tr.terms.Watch = time.Hour, "watch"
			tr.answer = func(_ string, e publish.RolloutEvent) error {
				if e.Healthy > 0 {
					return errors.New("errors go up")
				}
				return nil
			}
		},
		"the watch is red at the end": func(tr *trial) {
			tr.terms.Watch = "watch"
			tr.answer = func(_ string, e publish.RolloutEvent) error {
				if e.Healthy > 0 {
					return errors.New("errors go up")
				}
				return nil
			}
		},
		"it cannot be reached": func(tr *trial) {
			tr.terms.HealthTimeout = time.Minute
			for _, b := range tr.boxes {
				b.activate = func(context.Context) error {
					if tr.pointer.Rollout != nil {
						return push.ErrLost
					}
					return nil
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTrial("1", "a", "b", "c", "d")
			spoil(tr)
			most := 0
			tr.onEvent = func(e publish.RolloutEvent) {
				if e.Event != publish.RolloutBack {
					most = max(most, e.Given)
				}
			}
			o, code, err := tr.do(t, source)
			if code != exit.RolledBack || o.Result != publish.ResultRolledBack || !o.Committed || o.Generation != 3 {
				t.Fatalf("code %d, %v, %+v", code, err, o)
			}
			tr.everybodyIsOn(t, 3, "r1")
			if most != 1 || !strings.Contains(err.Error(), "rolled back at step 1 of 2, as generation 3") {
				t.Errorf("%d members were given it; %v", most, err)
			}
			if tr.current != "r1" || tr.fence != 3 {
				t.Errorf("the release volume is on %s at %d", tr.current, tr.fence)
			}
			if heard := strings.Join(tr.heard, " "); !strings.HasSuffix(heard, "failed 1 back 1") {
				t.Errorf("heard %s", heard)
			}
			// And the next publish goes above all of it.
			tr.source, tr.answer, tr.reasons = "d4", nil, nil
			for _, b := range tr.boxes {
				b.activate = nil
			}
			tr.terms = pointer.Terms{}
			if _, code, err := tr.do(t, source); code != 0 {
				t.Fatal(err)
			}
			tr.everybodyIsOn(t, 4, "r4")
		})
	}
}

func TestRolloutDoesNotBegin(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(tr *trial)
		code  int
		says  string
	}{
		"the watch is red": {func(tr *trial) {
			tr.terms.Watch = "watch"
			tr.answer = func(string, publish.RolloutEvent) error { return errors.New("errors go up") }
		}, exit.Unchanged, "the watch is red before the rollout begins: errors go up"},
		"an instance refresh": {func(tr *trial) {
			tr.busy, tr.reasons = errors.New("an instance refresh runs"), func() map[string]string { return nil }
		}, exit.Unchanged, "an instance refresh runs"},
		"nobody is ready": {func(tr *trial) {
			for _, b := range tr.boxes {
				b.State = "booting"
			}
		}, exit.Unchanged, "no member is ready"},
		"another one is open": {func(tr *trial) {
			tr.pointer.Rollout = &pointer.Rollout{Held: pointer.Held{Generation: 2, Release: "r9", Digest: "d9"},
				Steps: []pointer.Step{{Members: 1}, {Percent: 100}}, By: "somebody", Until: time.Now().Add(time.Minute)}
		}, exit.Conflict, "a rollout of generation 2 is at step 1 of 2 (1), by somebody"},
		"a hold": {func(tr *trial) {
			tr.pointer.Hold = &pointer.Hold{Why: "incident 7", By: "eve"}
		}, exit.Conflict, "publishes are on hold: incident 7 (eve"},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTrial("1", "a", "b")
			tc.spoil(tr)
			before := tr.pointer
			_, code, err := tr.do(t, source)
			if code != tc.code || err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("code %d, %v", code, err)
			}
			if tr.pointer.Revision != before.Revision || len(tr.did("ingest")) > 0 {
				t.Errorf("something was changed: %+v", tr.pointer)
			}
		})
	}
}

func TestHoldThatIsOverHoldsNobody(t *testing.T) {
	tr := newTrial("1", "a", "b")
	tr.pointer.Hold = &pointer.Hold{Why: "incident 7", By: "eve", Until: time.Unix(1, 0)}
	if _, code, err := tr.do(t, source); code != 0 || tr.pointer.Hold != nil {
		t.Errorf("code %d, %v, %+v", code, err, tr.pointer.Hold)
	}
}

// A hold that comes while a publish transfers is seen by its commit.
func TestHoldMeanwhile(t *testing.T) {
	for _, steps := range []string{"1", "all"} {
		tr := newTrial(steps, "a", "b")
		tr.hook = func(call string) error {
			if call == "stage a" {
				tr.mu.Lock()
				defer tr.mu.Unlock()
				tr.pointer.Hold = &pointer.Hold{Why: "incident 7", By: "eve"}
				tr.pointer.Revision++
			}
			return nil
		}
		if _, code, err := tr.do(t, source); code != exit.Conflict || tr.pointer.Rollout != nil || tr.pointer.Generation != 1 {
			t.Errorf("code %d, %v, %+v", code, err, tr.pointer)
		}
	}
}

func TestRolloutThatPausesIsResumed(t *testing.T) {
	tr := newTrial("1", "a", "b", "c")
	tr.terms = pointer.Terms{Gate: "gate", NoRollback: true}
	tr.answer = func(string, publish.RolloutEvent) error { return errors.New("no") }
	_, code, err := tr.do(t, source)
	if code != exit.Paused || !strings.Contains(err.Error(), "is paused at step 1 of 2: the gate is red: no") {
		t.Fatalf("code %d, %v", code, err)
	}
	if p := tr.pointer; p.Generation != 1 || p.Rollout == nil || p.Rollout.Paused == "" || len(tr.on("r2")) != 1 || tr.current != "r1" {
		t.Fatalf("%+v, %v", p, tr.on("r2"))
	}
	tr.answer = nil
	if _, code, err = tr.do(t, resume); code != 0 {
		t.Fatal(err)
	}
	tr.everybodyIsOn(t, 2, "r2")
}

// However many rollouts there were without a snapshot: who launches gets to either release, and no
// rollout is refused for that.
func TestRolloutsNeedNoSnapshot(t *testing.T) {
	tr := newTrial("1", "a", "b")
	tr.after = publish.SnapshotNone
	for last := 2; last < 70; last++ {
		tr.source = fmt.Sprint("d", last)
		if last == 4 {
			delete(tr.trees, "r1") // what the snapshot holds was pruned
		}
		tr.onEvent = func(publish.RolloutEvent) {
			p := tr.pointer
			ways := []pointer.Pointer{p}
			if p.Rollout != nil {
				all := *p.Rollout
				all.All = true
				p.Rollout = &all
				ways = append(ways, p.For(pointer.Instance{ID: "new"}))
			}
			for _, p := range ways {
				if way, found := p.Way(func(digest string) bool { return digest == tr.pointer.Holds().Digest }); !found || len(way) > 48 {
					t.Fatalf("rollout of d%d: %d packs lead to %s, %v", last, len(way), p.Release, found)
				}
			}
		}
		if _, code, err := tr.do(t, source); code != 0 {
			t.Fatalf("rollout of d%d: %v", last, err)
		}
	}
	if len(tr.did("pack  ")) == 0 {
		t.Errorf("nothing made the way short: %v", tr.did("pack")[:3])
	}
}
