package publish

import (
	"context"
	"fmt"
	"strings"

	"ebs-release/internal/pointer"
)

// tellRollout tells what happens in the rollout that the pointer carries.
func (r *run) tellRollout(event, reason string) { r.told(r.about(event, r.next), reason) }

// tellOf tells of a rollout that the pointer does not carry any more.
func (r *run) tellOf(event, reason string, had pointer.Rollout) {
	p := r.before
	p.Rollout = &had
	e := r.about(event, p)
	if event == RolloutBack {
		e.Generation, e.Release, e.Digest = r.next.Generation, r.next.Release, r.next.Digest
	}
	e.By = r.Settings.Who
	r.told(e, reason)
}

// told passes an event on: to who watches, and to the operator's programs, one after the other. A
// program that fails or hangs does not hold the rollout up.
func (r *run) told(e RolloutEvent, reason string) {
	e.Reason = clip(reason) // programs have it in their environment, where 128 KiB is the kernel's limit
	r.say(Event{Kind: KindRollout, Text: e.Sentence(), Rollout: &e})
	if r.Asks == nil {
		return
	}
	before, done := r.telling, make(chan struct{})
	r.telling = done
	go func() { // ended by the time limit of the programs; do waits for the last one
		defer close(done)
		if before != nil {
			<-before
		}
		if err := r.Asks.Tell(context.WithoutCancel(r.outer), e); err != nil {
			r.say(Event{Kind: KindWarning, Text: fmt.Sprintf("programs that hear of the rollout: %v", err)})
		}
	}()
}

// Sentence says it to a person.
func (e RolloutEvent) Sentence() string {
	at := fmt.Sprintf("step %d of %d (%s)", e.Step, e.Steps, e.Share)
	var s string
	switch e.Event {
	case RolloutBegan:
		s = fmt.Sprintf("rollout of generation %d: release %s, in %d steps", e.Generation, e.Release, e.Steps)
	case RolloutStep:
		s = at + " begins"
	case RolloutHealthy:
		s = fmt.Sprintf("%s: %d of %d members have it, %d are healthy", at, e.Given, e.Members, e.Healthy)
	case RolloutPassed:
		s = at + " is passed"
	case RolloutFailed:
		s = at + " failed"
	case RolloutPaused:
		s = at + ": paused"
	case RolloutResumed:
		s = at + ": resumed by " + e.By
	case RolloutBack:
		s = fmt.Sprintf("%s: back to release %s, as generation %d", at, e.Release, e.Generation)
	case RolloutFinished:
		s = fmt.Sprintf("the rollout of generation %d is finished", e.Generation)
	default:
		s = at + ": " + e.Event
	}
	if e.Reason != "" {
		s += ": " + strings.TrimSpace(e.Reason)
	}
	return s
}
