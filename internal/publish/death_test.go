package publish_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
)

// Members that have the release leave while it bakes, one after the other: whether that is the
// release's doing, or the group's daily life.
func TestWhoDiesOfARelease(t *testing.T) {
	type look struct {
		lifecycle, machine, ended string
		unhealthy                 bool
	}
	in := look{"InService", "running", "", false}
	sick := look{"InService", "running", "", true}
	replaced := look{"Terminating:Wait", "running", "", true}
	ending := look{"Terminating", "shutting-down", "Client.UserInitiatedShutdown", true}
	for name, tc := range map[string]struct {
		looks []look // 10 s each; then it is gone
		fails string
	}{
		"replaced as unhealthy":        {[]look{in, sick, replaced, ending}, "Auto Scaling replaces it as unhealthy"},
		"so fast that it is not seen":  {[]look{in, sick}, "Auto Scaling replaces it as unhealthy"},
		"it ends by itself":            {[]look{in, {"InService", "shutting-down", "Client.InstanceInitiatedShutdown", false}}, "has ended by itself"},
		"it stops, and is replaced":    {[]look{in, {"Terminating", "stopped", "Client.InstanceInitiatedShutdown", true}}, "has ended by itself"},
		"scale-in":                     {[]look{in, {"Terminating", "running", "", false}, {"Terminating", "shutting-down", "Client.UserInitiatedShutdown", false}}, ""},
		"a spot interruption":          {[]look{in, {"InService", "shutting-down", "Server.SpotInstanceTermination", false}, {"Terminating", "shutting-down", "Server.SpotInstanceTermination", true}}, ""},
		"one, by a list that is old":   {[]look{in, sick, {"Terminating", "shutting-down", "Server.SpotInstanceTermination", true}}, ""},
		"an operator terminates it":    {[]look{in, {"InService", "shutting-down", "Client.UserInitiatedShutdown", false}, ending}, ""},
		"unhealthy, and then not":      {[]look{in, sick, in, {"Terminating", "running", "", false}}, ""},
		"unhealthy, and not replaced":  {[]look{in, sick, sick, sick}, ""},
		"it was so before the release": {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTrial("1", "a", "b", "c", "d")
			tr.terms.Bake = 10 * time.Minute
			before := name == "it was so before the release"
			first, began := "", time.Time{}
			for _, b := range tr.boxes {
				b.Machine, b.Unhealthy = "running", before
			}
			tr.onEvent = func(e publish.RolloutEvent) {
				if e.Event == publish.RolloutHealthy && first == "" {
					first, began = e.Instances[0], time.Now()
				}
			}
			tr.onList = func(int) {
				tr.mu.Lock()
				defer tr.mu.Unlock()
				b := tr.boxes[first]
				switch n := int(time.Since(began) / (10 * time.Second)); {
				case b == nil:
				case before:
					b.LifecycleState = "Terminating"
				case n < len(tc.looks):
					b.LifecycleState, b.Machine, b.Ended, b.Unhealthy = tc.looks[n].lifecycle, tc.looks[n].machine, tc.looks[n].ended, tc.looks[n].unhealthy
				case name == "unhealthy, and not replaced":
				default:
					delete(tr.boxes, first)
				}
			}
			_, code, err := tr.do(t, source)
			switch {
			case tc.fails == "" && code != 0:
				t.Errorf("code %d, %v", code, err)
			case tc.fails != "" && (code != exit.RolledBack || !strings.Contains(err.Error(), tc.fails) || !strings.Contains(err.Error(), "1 of 1 member with the release failed")):
				t.Errorf("code %d, %v, want %q", code, err, tc.fails)
			}
		})
	}
}

// As many as may fail, and no more; those that died go on counting in the steps that follow.
func TestDeathsAreCountedOverTheSteps(t *testing.T) {
	for most, want := range map[string]int{"1": exit.RolledBack, "2": 0} {
		tr := newTrial("1,50%", "a", "b", "c", "d", "e", "f")
		tr.terms = pointer.Terms{Bake: 5 * time.Minute}
		for _, b := range tr.boxes {
			b.Machine = "running"
		}
		dies, step := map[string]time.Time{}, 0
		tr.onEvent = func(e publish.RolloutEvent) {
			tr.mu.Lock()
			defer tr.mu.Unlock()
			if e.Event == publish.RolloutHealthy && e.Step < 3 && e.Step > step {
				step = e.Step
				dies[e.Instances[0]] = time.Now()
			}
		}
		tr.onList = func(int) {
			tr.mu.Lock()
			defer tr.mu.Unlock()
			for id, at := range dies {
				b := tr.boxes[id]
				switch since := time.Since(at); {
				case b == nil || since < time.Minute:
				case since < 2*time.Minute:
					b.Unhealthy = true
				case since < 3*time.Minute:
					b.LifecycleState = "Terminating"
				default:
					delete(tr.boxes, id)
				}
			}
		}
		_, code, err := tr.do(t, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
			p.Settings.MaxFailures, _ = publish.ParseMaxFailures(most)
			return source(ctx, p)
		})
		if code != want || want != 0 && !strings.Contains(err.Error(), "2 of") {
			t.Errorf("--max-failures %s: code %d, %v", most, code, err)
		}
	}
}

// A fleet that becomes smaller while a step bakes wants fewer members of it: the bake begins once
// more, and comes to its end.
func TestAFleetThatShrinksWhileItBakes(t *testing.T) {
	tr := newTrial("50%", "a", "b", "c", "d", "e")
	tr.terms = pointer.Terms{Bake: 10 * time.Minute}
	var began time.Time
	left := ""
	tr.onEvent = func(e publish.RolloutEvent) {
		if e.Event == publish.RolloutHealthy && left == "" {
			left, began = e.Instances[0], time.Now()
		}
	}
	tr.onList = func(int) {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		if left != "" && time.Since(began) > 5*time.Minute {
			delete(tr.boxes, left)
		}
	}
	o, code, err := tr.do(t, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Hour)
		defer cancel()
		return source(ctx, p)
	})
	if code != 0 || o.OnIt != 4 {
		t.Errorf("code %d, %v, %+v", code, err, o)
	}
}

// A driver that died has written whom the release has cost, so the next one counts them, though no
// listing shows them; a person who resumes a rollout that is paused has seen them.
func TestDeathsAreKnownToWhoDrivesNext(t *testing.T) {
	for name, tc := range map[string]struct {
		paused bool
		want   int
	}{"its driver is gone": {false, exit.RolledBack}, "it is paused": {true, 0}} {
		t.Run(name, func(t *testing.T) {
			tr := newTrial("2", "a", "b", "c", "d", "e", "f")
			tr.terms = pointer.Terms{Bake: 20 * time.Minute}
			var given []string
			var began time.Time
			for _, b := range tr.boxes {
				b.Machine = "running"
			}
			tr.onEvent = func(e publish.RolloutEvent) {
				if e.Event == publish.RolloutHealthy && e.Step == 1 && given == nil {
					given, began = e.Instances, time.Now()
				}
			}
			dies := func(id string, since time.Duration) {
				switch b := tr.boxes[id]; {
				case b == nil || since < 0:
				case since < time.Minute:
					b.Unhealthy = true
				case since < 2*time.Minute:
					b.LifecycleState = "Terminating"
				default:
					delete(tr.boxes, id)
				}
			}
			second := false
			tr.onList = func(int) {
				tr.mu.Lock()
				defer tr.mu.Unlock()
				if given == nil {
					return
				}
				since := time.Since(began)
				dies(given[0], since-time.Minute)
				if second {
					dies(given[1], since-time.Minute)
				} else if since > 6*time.Minute {
					tr.interrupt()
				}
			}
			most := func(do func(context.Context, *publish.Publisher) (publish.Outcome, error)) func(context.Context, *publish.Publisher) (publish.Outcome, error) {
				return func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
					p.Settings.MaxFailures, _ = publish.ParseMaxFailures("1")
					return do(ctx, p)
				}
			}
			if _, code, err := tr.do(t, most(source)); code != exit.Interrupted || len(tr.pointer.Rollout.Lost) != 1 {
				t.Fatalf("code %d, %v, %+v", code, err, tr.pointer.Rollout)
			}
			if tc.paused {
				tr.pointer.Rollout.Paused = "to look at it"
			}
			second = true
			_, code, err := tr.do(t, most(func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
				began = time.Now().Add(2 * time.Minute)
				return p.Resume(ctx, true)
			}))
			if code != tc.want || tc.want != 0 && !strings.Contains(err.Error(), "2 of") {
				t.Errorf("code %d, %v", code, err)
			}
		})
	}
}
