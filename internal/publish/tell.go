package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/fleet"
	"ebs-release/internal/pointer"
	"ebs-release/internal/volume"
	"ebs-release/internal/words"
)

// report writes the new generation to the tags of the members that this run has activated it on.
// Where a program failed the tags say so: whoever looks next knows it, and does not take the member
// for current.
func (ms *members) report(ctx context.Context, next pointer.Pointer) error {
	ms.mu.Lock()
	todo := map[said][]*member{} // by what to write
	for _, m := range ms.all {
		switch {
		case m.gone || m.reported || m.VolumeID == "":
		case m.hookFailedHere():
			todo[m.says(volume.StateHookFailed)] = append(todo[m.says(volume.StateHookFailed)], m)
		case m.active == m.VolumeID && m.State == volume.StateHookFailed:
			todo[m.says(volume.StateReady)] = append(todo[m.says(volume.StateReady)], m)
		case m.active == m.VolumeID:
			todo[m.says("")] = append(todo[m.says("")], m)
		}
	}
	ms.mu.Unlock()
	if len(todo) == 0 {
		return nil
	}
	// Another publish may have gone on from here, and reported already.
	if _, err := ms.overtaken(ctx, next); err != nil {
		return err
	}
	var errs []error
	for says, some := range todo {
		var tagged []string
		for _, m := range some {
			tagged = append(tagged, m.Tagged())
		}
		slices.Sort(tagged)
		if err := ms.Fleet.Report(ctx, tagged, says.generation, says.release, says.state); err != nil {
			errs = append(errs, err)
			continue
		}
		ms.mu.Lock()
		for _, m := range some {
			m.reported = m.says(says.state) == says
		}
		ms.mu.Unlock()
	}
	return errors.Join(errs...)
}

// said is what a report writes.
type said struct {
	target
	state string
}

func (m *member) says(state string) said { return said{m.wanted, state} }

// overtaken is an error when the pointer is above this run's generation. It returns the pointer as
// it is.
func (ms *members) overtaken(ctx context.Context, next pointer.Pointer) (is pointer.Pointer, err error) {
	is, err = ms.Store.Read(ctx)
	switch {
	case err != nil:
		return is, fmt.Errorf("read the pointer: %w", err)
	case ms.driving() && !sameRollout(is, next):
		return is, taken(is, next)
	case is.Highest() > next.Highest(), is.Generation > next.Generation: // the latter: a rollout has come through
		return is, exit.With(exit.Conflict,
			fmt.Errorf("generation %d was published meanwhile by %s, which has to converge now", is.Highest(), is.By))
	}
	return is, nil
}

func (ms *members) driving() bool {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return ms.drives
}

// listedNow are the members that stay, as last listed.
func (ms *members) listedNow() (some []fleet.Member) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	for _, m := range ms.all {
		if !m.gone && !isLeaving(m.LifecycleState) {
			some = append(some, m.Member)
		}
	}
	return some
}

// progress counts. During P3 a member is done when it has the tree, otherwise when it is on the
// generation.
func (ms *members) progress() *Progress {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	p := &Progress{Snapshot: ms.percent}
	for _, m := range ms.all {
		stands := m.standing()
		if stands == StandsGone || stands == StandsLeaving {
			p.Gone++
			continue
		}
		p.Total++
		switch {
		case ms.phase == "P3" && m.hasTree(), ms.phase != "P3" && stands == StandsCurrent:
			p.Done++
		case m.busy:
			p.Working++
		case stands == StandsFailed:
			p.Failed++
		default:
			p.Waiting++
		}
	}
	return p
}

func (ms *members) count() string {
	p := ms.progress()
	if p.Total == 0 {
		return "no members"
	}
	booting := len(ms.having(StandsBooting))
	if booting == 0 {
		return words.Count(p.Total, "member")
	}
	return fmt.Sprintf("%s, %d of them booting", words.Count(p.Total, "member"), booting)
}

func (ms *members) snapshotProgress(percent string) {
	ms.mu.Lock()
	ms.percent = percent
	ms.mu.Unlock()
	ms.say(Event{Kind: KindProgress, Progress: ms.progress()})
}

func (ms *members) say(e Event) {
	if ms.Talk == nil {
		return
	}
	ms.talk.Lock()
	defer ms.talk.Unlock()
	ms.mu.Lock()
	e.Schema, e.Time, e.Phase = 1, time.Now().UTC(), ms.phase
	ms.mu.Unlock()
	ms.Talk(e)
}
