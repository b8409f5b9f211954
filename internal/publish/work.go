package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ebs-release/internal/fleet"
	"ebs-release/internal/pointer"
	"ebs-release/internal/push"
	"ebs-release/internal/words"
)

// stageTries is how often P3 tries a member, with a pause of about stagePause, growing. What still
// fails then is tried again in P5.
const (
	stageTries = 3
	stagePause = time.Second
)

// What is done to one member. Each step has its own MemberTimeout and goes over the member's one
// connection, which an error closes: the next try opens a new one.

func (ms *members) connect(ctx context.Context, m *member) error {
	return ms.step(ctx, m, "connect to", slotted, func(context.Context, Session, fleet.Member) error { return nil })
}

// stage has the member fetch the tree, which does not become active. One that has it is left alone.
// Where no pack that the pointer lists leads on from what it holds, another one is made.
func (ms *members) stage(ctx context.Context, m *member, next pointer.Pointer) error {
	tried, more := map[string]bool{}, []pointer.Edge(nil)
	for {
		var to push.Desired
		var noWay error
		err := ms.step(ctx, m, "stage on", slotted, func(ctx context.Context, s Session, as fleet.Member) error {
			ms.mu.Lock()
			to = push.Desired{Pointer: next.For(instanceOf(as)), Wanted: ms.wanted}
			has := as.VolumeID != "" && m.staged == tree{as.VolumeID, to.Release}
			ms.mu.Unlock()
			if has {
				return nil
			}
			if more != nil {
				to.Edges = more
			}
			if err := ms.prove(ctx, &to, next); err != nil {
				return err
			}
			fetched, err := s.Stage(ctx, to)
			ms.mu.Lock()
			if m.no = (tree{}); errors.Is(err, push.ErrRefused) {
				m.no = tree{as.VolumeID, to.Release}
			}
			ms.mu.Unlock()
			if _, none := errors.AsType[*push.NoWayError](err); none {
				noWay = err
				return nil
			}
			if err != nil {
				return err
			}
			ms.mu.Lock()
			m.staged = tree{as.VolumeID, to.Release}
			ms.fetched.Packs += fetched.Packs
			ms.fetched.Bytes += fetched.Bytes
			ms.mu.Unlock()
			ms.say(Event{Kind: KindStaged, Member: as.InstanceID})
			return nil
		})
		if err != nil || noWay == nil {
			return err
		}
		edge, err := ms.another(ctx, noWay, to.Pointer, tried)
		if err != nil {
			return err
		}
		more = []pointer.Edge{edge} // alone: those of before led nowhere
	}
}

// prove adds the signed pointer while a rollout is open: a member takes its side by that.
func (ms *members) prove(ctx context.Context, to *push.Desired, next pointer.Pointer) (err error) {
	if next.Rollout != nil {
		to.Whole, err = ms.Store.Document(ctx)
	}
	return err
}

func (ms *members) stageWithRetries(ctx context.Context, m *member, next pointer.Pointer) error {
	for try := 1; ; try++ {
		err := ms.stage(ctx, m, next)
		if err == nil || passes(err) || isFinal(err) || try == stageTries || ctx.Err() != nil {
			return err
		}
		m.giveSlotBack()
		pause := stagePause << (try - 1)
		if sleep(ctx, pause/2+ms.jitter(pause)) != nil {
			return err
		}
	}
}

// activate makes the release current on the member. window, if any, is the one that the flip counts
// in.
func (ms *members) activate(ctx context.Context, m *member, next pointer.Pointer, window *Window) error {
	return ms.step(ctx, m, "activate on", unslotted, func(ctx context.Context, s Session, as fleet.Member) error {
		ms.mu.Lock()
		to := push.Desired{Pointer: next.For(instanceOf(as)), Wanted: ms.wanted}
		ms.mu.Unlock()
		if err := ms.prove(ctx, &to, next); err != nil {
			return err
		}
		asked := time.Now()
		err := s.Activate(ctx, to)
		hook, isHook := errors.AsType[*push.HookError](err)
		ms.mu.Lock()
		if err != nil && !isHook {
			// It may have lost the tree (its volume was replaced behind the same id): look again
			// next time.
			m.staged = tree{}
			ms.mu.Unlock()
			return err
		}
		if m.wanted != targetOf(next, as) { // that changed meanwhile: it is done again
			ms.mu.Unlock()
			return nil
		}
		if window != nil {
			window.add(asked, time.Now())
		}
		m.active, m.hookFailedOn, m.reported, m.hook = as.VolumeID, "", false, nil
		told := Event{Kind: KindActive, Member: as.InstanceID}
		if isHook {
			m.active, m.hookFailedOn, m.hook = "", as.VolumeID, err
			told.Kind, told.Cause, told.Text = KindHook, hook.Error(), words.OneLine(err)
		}
		ms.mu.Unlock()
		ms.say(told)
		return nil
	})
}

// Whether a step takes a slot once its connection is open; opening one always does.
const (
	slotted   = true
	unslotted = false
)

// stepFunc is told the member as it was listed when the step began.
type stepFunc func(context.Context, Session, fleet.Member) error

// step does something over the member's connection.
func (ms *members) step(ctx context.Context, m *member, what string, takesSlot bool, do stepFunc) error {
	ms.mu.Lock()
	as := m.Member
	ms.mu.Unlock()
	// With a limit on failures the members flip a few at a time: else all would be begun before one
	// fails.
	if takesSlot || ms.Settings.MaxFailures.limited || !m.connected(as) {
		if err := ms.takeSlot(ctx, m); err != nil {
			return err
		}
	} else if err := ms.begin(m); err != nil {
		return err
	}
	stepCtx, cancel := context.WithTimeout(ctx, ms.Settings.MemberTimeout)
	defer cancel()
	session, err := ms.session(stepCtx, m, as)
	if err == nil {
		err = do(stepCtx, session, as)
	}
	if err == nil {
		m.giveSlotBack()
		return nil
	}
	if !passes(err) {
		ms.hangUp(m)
	}
	if errors.Is(stepCtx.Err(), context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("%s %s %w: %w", what, as.Address, timeoutError(ms.Settings.MemberTimeout), err)
	}
	return err
}

// session returns the member's connection. Only the worker that has the member busy uses it. A
// member that came back with another address or host key gets a new one.
func (ms *members) session(ctx context.Context, m *member, as fleet.Member) (Session, error) {
	if m.connected(as) {
		return m.session, nil
	}
	ms.hangUp(m)
	session, err := ms.Dialer.Dial(ctx, as)
	if err != nil {
		return nil, err
	}
	m.session, m.dialed = session, dialed(as)
	return m.session, nil
}

func dialed(as fleet.Member) string { return as.Address + " " + as.HostKey }

// connected says that the member has a connection to where it is now. As session, it is for the
// worker that has the member busy.
func (m *member) connected(as fleet.Member) bool { return m.session != nil && m.dialed == dialed(as) }

func (ms *members) hangUp(m *member) {
	if m.session == nil {
		return
	}
	_ = m.session.Close() // what the connection did is known by the steps' own answers
	m.session = nil
}
