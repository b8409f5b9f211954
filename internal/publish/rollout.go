package publish

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/exit"
	"ebs-release/internal/fleet"
	"ebs-release/internal/pointer"
)

// Health says which members must not be counted on.
type Health interface {
	// Look returns the reason for each of the members that is not healthy, by its id. by is what
	// the rollout's terms say: programs, group or target-groups. After an error nothing is known.
	Look(ctx context.Context, by string, some []fleet.Member) (reasons map[string]string, err error)
	// Idle is an error while somebody else replaces the members: an instance refresh.
	Idle(ctx context.Context) error
}

// Asks are the operator's commands and programs around a rollout.
type Asks interface {
	// Ask runs a gate (--gate, asked at the end of a step) or a watch (--watch, asked all the time);
	// an error says why it is red. The gate of a boot is boot.Gate: nobody asks that one.
	Ask(ctx context.Context, command string, about RolloutEvent) error
	// Tell runs the programs that hear what happens.
	Tell(ctx context.Context, about RolloutEvent) error
}

// What a RolloutEvent is about.
const (
	RolloutBegan    = "began"
	RolloutStep     = "step"     // a step begins: more members are given the release
	RolloutHealthy  = "healthy"  // all that the step wants have it, and are healthy
	RolloutPassed   = "passed"   // the step is over: bake, gate and watch were good
	RolloutFailed   = "failed"   // Reason says why it does not go on
	RolloutPaused   = "paused"   // it stands until somebody resumes, aborts or finishes it
	RolloutResumed  = "resumed"  // by By
	RolloutBack     = "back"     // everybody gets the stable release, as a new generation
	RolloutFinished = "finished" // it is everybody's release
	RolloutGate     = "gate"     // only as what a gate is asked
	RolloutWatch    = "watch"    // only as what a watch is asked
)

// RolloutEvent is what happens in a rollout. Gate, watch and the programs in rollout.d get it as
// JSON on stdin; `--output ndjson` has it in events of kind "rollout".
type RolloutEvent struct {
	Schema     int          `json:"schema"` // 1
	Event      string       `json:"event"`
	Generation int64        `json:"generation"` // of the new release; with back: that of the stable one from now on
	Release    string       `json:"release"`
	Digest     string       `json:"digest,omitempty"`
	Stable     pointer.Held `json:"stable"`
	Step       int          `json:"step"`  // from 1; 0: before the first
	Steps      int          `json:"steps"` // how many there are
	Share      string       `json:"share"` // of the step: 3, 10%, all
	Members    int          `json:"members"`
	Given      int          `json:"given"`   // members that are given the new release
	Healthy    int          `json:"healthy"` // of those, on it and healthy
	Instances  []string     `json:"instances"`
	By         string       `json:"by"`
	Message    string       `json:"message,omitempty"`
	Reason     string       `json:"reason,omitempty"`
}

// mayBegin is an error while somebody holds publishes up, or a rollout is not over.
func (r *run) mayBegin(now time.Time) error {
	if r.goesBack {
		return nil
	}
	if h := r.before.Hold; h.At(now) {
		return exit.With(exit.Conflict, advice.Try(fmt.Errorf("publishes are on hold%s: %s (%s, %s); nothing was changed",
			until(h), h.Why, h.By, h.Since.UTC().Format(time.RFC3339)), "ebs-release hold --release; a rollback goes through"))
	}
	if r.before.Rollout != nil {
		return exit.With(exit.Conflict, advice.Try(fmt.Errorf("%s; nothing was changed", SayRollout(r.before, now)),
			"ebs-release rollout status, then rollout resume, finish or abort"))
	}
	return nil
}

func until(h *pointer.Hold) string {
	if h.Until.IsZero() {
		return ""
	}
	return " until " + h.Until.UTC().Format(time.RFC3339)
}

// SayRollout says in one line which rollout a pointer carries, where it stands and who drives it.
func SayRollout(p pointer.Pointer, now time.Time) string {
	ro := p.Rollout
	text := fmt.Sprintf("a rollout of generation %d is at step %d of %d (%s), by %s",
		ro.Generation, ro.Step+1, len(ro.Steps), ro.Steps[ro.Step], ro.By)
	switch {
	case ro.Paused != "":
		return text + ", and paused: " + ro.Paused
	case now.After(ro.Until):
		return text + ", who has not been heard of since " + ro.Until.UTC().Format(time.RFC3339)
	case !Driven(*ro, now):
		return text + ", whose clock is wrong: it was to write again by " + ro.Until.UTC().Format(time.RFC3339)
	}
	return text
}

// rolls says whether this publish gives its release to a share of the members first. The first
// release of all has no other beside it, and one that members have already needs no trial.
func (r *run) rolls() bool {
	return len(r.Settings.Steps) > 0 && r.before.Generation > 0 && r.next.Digest != r.before.Digest
}

// healthyPrograms in Terms.Healthy: who is on the release is healthy, as its programs have
// succeeded. Any other word comes from somebody who looks now and then.
const healthyPrograms = "programs"

// mayRoll is P0's: a rollout does not begin without members to try the release on, nor while its
// watch is red.
func (r *run) mayRoll(ctx context.Context) error {
	if len(r.Settings.Steps) == 0 || r.before.Generation == 0 || r.goesBack {
		return nil
	}
	if len(r.members.having(append(slices.Clone(openStandings), StandsCurrent, StandsAhead)...)) == 0 {
		return advice.Try(errors.New("no member is ready, so there is nobody to try a step of the rollout on"),
			"ebs-release publish --steps '', which gives the release to whatever launches, at once")
	}
	if terms := r.Settings.Terms; terms.Healthy != "" && terms.Healthy != healthyPrograms && terms.Bake == 0 {
		r.say(Event{Kind: KindWarning, Text: fmt.Sprintf("healthy is %s, whose word is from before the flip until its checks have noticed: "+
			"without a bake a bad release may pass its step, unless drain.d takes each member out of service first", terms.Healthy)})
	}
	if r.Health != nil {
		if err := r.Health.Idle(ctx); err != nil {
			return err
		}
		if _, err := r.Health.Look(ctx, r.Settings.Terms.Healthy, r.members.listedNow()); err != nil {
			return advice.Errorf("a rollout could not see who is healthy: %w", err)
		}
	}
	watch := r.Settings.Terms.Watch
	if watch == "" || r.Asks == nil || r.looks {
		return nil
	}
	about := r.about(RolloutWatch, r.intended(time.Now()))
	if err := r.Asks.Ask(ctx, watch, about); err != nil {
		return advice.Errorf("the watch is red before the rollout begins: %w", err)
	}
	return nil
}

// second is a time as the pointer has it.
func second(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// intended is the pointer with which a rollout of this run's release begins: nobody has it yet.
func (r *run) intended(now time.Time) pointer.Pointer {
	p := r.before
	p.Hold = r.next.Hold
	p.Rollout = &pointer.Rollout{
		Held: r.next.Own(), Share: map[string]string{}, Steps: withAll(r.Settings.Steps), By: r.Settings.Who,
		Until: lease(now), Began: second(now), Message: r.Settings.Message, Terms: r.Settings.Terms,
	}
	if r.next.Edges != nil { // P2 has been
		p.Edges, p.Keys, p.KeysSince = r.next.Edges, r.next.Keys, r.next.KeysSince
		p.Snapshots, p.SnapshotOf = r.next.Snapshots, r.next.SnapshotOf
		if of := p.SnapshotOf; of != nil && *of == p.Own() {
			p.SnapshotOf = nil
		}
	}
	return p
}

// ParseSteps reads the steps of a rollout, such as 1,10%,50%; "": none.
func ParseSteps(text string) (steps []pointer.Step, err error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		step, err := pointer.ParseStep(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		steps = append(steps, step)
	}
	if all := withAll(steps); len(all) > pointer.MostSteps {
		return nil, fmt.Errorf("%d steps, want at most %d with the last one, which is always all", len(all), pointer.MostSteps)
	}
	return steps, nil
}

// withAll: the last step is always all.
func withAll(steps []pointer.Step) []pointer.Step {
	all := pointer.Step{Percent: 100}
	if n := len(steps); n > 0 && steps[n-1] == all {
		return steps
	}
	return append(slices.Clone(steps), all)
}

// leadRollout lists the packs that let a rollout, and what ends one, be a single write of the
// pointer: also from the new release back to the stable one.
func (r *run) leadRollout(ctx context.Context) error {
	if ro := r.before.Rollout; ro != nil && r.hasHere(ro.Release, ro.Digest) { // a rollback that ends it
		if _, found := wayFrom(ro.Digest, r.next); !found {
			return r.listPack(ctx, ro.Release)
		}
	}
	if !r.rolls() || r.goesBack {
		return nil
	}
	if !r.hasHere(r.before.Release, r.before.Digest) {
		return advice.Try(fmt.Errorf("the release volume does not have release %s, so there is no way back from a rollout", r.before.Release),
			"ebs-release publish --steps ''")
	}
	return r.listEdge(ctx, r.next.Release, r.before.Release)
}

// begin is P4 of a publish with steps: the pointer carries the rollout, and nobody has the release
// yet. From here on everything is a write of the pointer, so no lock is held, and a driver that
// hangs is in nobody's way.
func (r *run) begin(ctx context.Context) error {
	if !r.rolls() {
		return r.commit(ctx)
	}
	if err := errors.Join(ctx.Err(), r.packsAreFresh()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime) // it is done or not done
	defer cancel()
	var err error
	var to pointer.Pointer
	for range nameTries {
		to = r.intended(time.Now())
		if way, found := wayFrom(to.Holds().Digest, to); !found || len(way) > mostSteps {
			return advice.Try(fmt.Errorf("no packs lead from the snapshot that the pointer names to release %s, and instances that launch "+
				"during a rollout need them", to.Release), "ebs-release snapshot --new")
		}
		if err = r.Store.CompareAndSwap(ctx, r.before, to); !errors.Is(err, pointer.ErrConflict) || !r.rebase(ctx) {
			break
		}
	}
	to.Revision = r.before.Revision + 1
	switch {
	case errors.Is(err, pointer.ErrConflict):
		return exit.With(exit.Conflict, fmt.Errorf("nothing was begun: %w", err))
	case err != nil:
		is, readErr := r.Store.Read(ctx)
		if readErr != nil || errors.Is(err, pointer.ErrUnclear) {
			return exit.With(exit.Failed, fmt.Errorf("it is not known whether the rollout has begun, look with `ebs-release rollout status`: %w",
				errors.Join(err, readErr)))
		}
		if !sameRollout(is, to) {
			return err
		}
		to = is
	}
	r.undo = nil
	r.drives(to)
	r.giveBack()
	r.tellRollout(RolloutBegan, "")
	return nil
}

// drives: this run drives the rollout that the pointer carries.
func (r *run) drives(is pointer.Pointer) {
	r.next, r.begun = is, true
	r.members.mu.Lock()
	r.members.moved, r.members.drives = true, true
	r.members.mu.Unlock()
	r.members.keep(r.wanted())
	r.window = &Window{} // each step is a wave of its own
}

// sameRollout compares what two pointers give to whom.
func sameRollout(a, b pointer.Pointer) bool {
	// Two that end a rollout write the same generation, and a rollback another release with it.
	if a.Own() != b.Own() || (a.Rollout == nil) != (b.Rollout == nil) {
		return false
	}
	if a.Rollout == nil {
		return true
	}
	x, y := *a.Rollout, *b.Rollout
	if !x.Until.Equal(y.Until) || !x.Began.Equal(y.Began) || len(x.Share) != len(y.Share) {
		return false
	}
	x.Until, x.Began, y.Until, y.Began = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	if len(x.Share) == 0 {
		x.Share, y.Share = nil, nil // none, and an empty one
	}
	return reflect.DeepEqual(x, y)
}

// taken says what somebody else did with the rollout that this run drives.
func taken(is, had pointer.Pointer) error {
	ro := had.Rollout
	switch now := is.Rollout; {
	case is.Generation == ro.Generation:
		return exit.With(exit.Conflict, fmt.Errorf("the rollout of generation %d was finished by %s", ro.Generation, is.By))
	case now == nil || now.Generation != ro.Generation:
		return exit.With(exit.Conflict,
			fmt.Errorf("the rollout of generation %d was ended by %s, as generation %d", ro.Generation, is.By, is.Highest()))
	case now.Paused != "":
		return paused(*now, now.Paused)
	default:
		return exit.With(exit.Conflict, fmt.Errorf("the rollout of generation %d is driven by %s now", ro.Generation, now.By))
	}
}

// write changes the pointer as it is. What others wrote meanwhile about something else stays; where
// they changed the rollout, it is theirs.
func (r *run) write(ctx context.Context, change func(*pointer.Pointer)) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
	defer cancel()
	for gap := firstGap; ; gap = min(gap*2, longestGap) {
		to := r.next
		if to.Rollout != nil {
			ro := *to.Rollout
			to.Rollout = &ro
		}
		change(&to)
		err := r.Store.CompareAndSwap(ctx, r.next, to)
		if err == nil {
			to.Revision = r.next.Revision + 1
			r.next = to
			return nil
		}
		is, readErr := r.Store.Read(ctx)
		switch {
		case readErr != nil:
		case sameRollout(is, to):
			r.next = is
			return nil
		case !sameRollout(is, r.next):
			return taken(is, r.next)
		case is.Revision != r.next.Revision:
			r.next = is
			continue
		}
		if sleep(ctx, gap) != nil {
			return errors.Join(err, readErr)
		}
	}
}

// EventOf is an event of the rollout that a pointer carries, without the members.
func EventOf(event string, p pointer.Pointer) RolloutEvent {
	e := RolloutEvent{
		Schema: 1, Event: event, Generation: p.Generation, Release: p.Release, Digest: p.Digest, By: p.By, Message: p.Message,
		Stable: p.Own(), Instances: []string{},
	}
	ro := p.Rollout
	if ro == nil {
		return e
	}
	e.Generation, e.Release, e.Digest, e.By, e.Message = ro.Generation, ro.Release, ro.Digest, ro.By, ro.Message
	e.Step, e.Steps, e.Share = ro.Step+1, len(ro.Steps), ro.Steps[ro.Step].String()
	return e
}

// about is an event of the rollout that a pointer carries.
func (r *run) about(event string, p pointer.Pointer) RolloutEvent {
	e, ro := EventOf(event, p), p.Rollout
	if ro == nil {
		return e
	}
	r.members.mu.Lock()
	defer r.members.mu.Unlock()
	for id, m := range r.members.all {
		if m.gone || isLeaving(m.LifecycleState) {
			continue
		}
		e.Members++
		if ro.Includes(instanceOf(m.Member)) {
			e.Given++
			e.Instances = append(e.Instances, id)
			if m.standing() == StandsCurrent && !m.unhealthy {
				e.Healthy++
			}
		}
	}
	slices.Sort(e.Instances)
	return e
}
