package publish

import (
	"context"
	"slices"
	"sync"
	"time"
)

// patience says how long each waits for the members that it works on.
type patience struct {
	most time.Duration // 0: until they are done
	// rest: one slow member must not hold up all others. Once half of them are through (and until
	// is closed, if there is one), what is still under way gets as long again as it took so far,
	// and this. 0: until they are done.
	rest  time.Duration
	until <-chan struct{}
}

// each works on some members, and returns when all of them are done or patience ends; what is under
// way then goes on. A member that is being worked on already is left alone. The end of ctx ends the
// work.
func (ms *members) each(ctx context.Context, some []*member, wait patience, work func(context.Context, *member) error) {
	start := time.Now()
	done := make(chan error, len(some))
	begun, through, ended := 0, 0, 0
	for _, m := range some {
		ms.mu.Lock()
		skip := m.busy
		m.busy = true
		m.begun = m.begun && skip
		ms.mu.Unlock()
		if skip {
			continue
		}
		begun++
		ms.workers.Go(func() { done <- ms.one(ctx, m, work) })
	}
	var most, late <-chan time.Time
	queued := false // some had no slot yet when late came last
	if wait.most > 0 {
		most = time.After(wait.most)
	}
	for ended < begun {
		ms.say(Event{Kind: KindProgress, Progress: ms.progress()})
		if late == nil && wait.rest > 0 && wait.until == nil && 2*through >= begun {
			late = time.After(time.Since(start) + wait.rest)
		}
		select {
		case err := <-done:
			ended++
			if err == nil {
				through++
			}
		case <-wait.until:
			wait.until = nil
		case <-most:
			return
		case <-late:
			before := queued
			if queued = ms.queued(some); !queued && !before {
				return
			}
			late = time.After(wait.rest) // the slots were held by members that hang: the rest is not slow
		}
	}
	ms.say(Event{Kind: KindProgress, Progress: ms.progress()})
}

// queued says that somebody has not had a slot yet.
func (ms *members) queued(some []*member) bool {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return slices.ContainsFunc(some, func(m *member) bool { return m.busy && !m.begun })
}

func (ms *members) one(ctx context.Context, m *member, work func(context.Context, *member) error) error {
	err := work(ctx, m)
	ms.note(ctx, m, err)
	return err
}

// slotTime is how long a step may keep its slot. Who takes longer goes on without one, so that
// members which hang, as many as there are slots, do not keep the others waiting until they time
// out.
const slotTime = 5 * time.Second

// takeSlot waits for one of the Parallel slots. Only what costs this machine something takes one: a
// login and a fetch; an activation is one line over an open connection. It is given back between
// two tries.
func (ms *members) takeSlot(ctx context.Context, m *member) error {
	select {
	case ms.slots <- struct{}{}:
	case <-ctx.Done():
		return errNotBegun
	}
	free := sync.OnceFunc(func() { <-ms.slots })
	if err := ms.begin(m); err != nil {
		free()
		return err
	}
	late := time.AfterFunc(slotTime, free)
	m.slot = func() { late.Stop(); free() }
	return nil
}

func (m *member) giveSlotBack() {
	if m.slot != nil {
		m.slot()
		m.slot = nil
	}
}

// begin is an error when too many others have failed for this member to be begun.
func (ms *members) begin(m *member) error {
	ms.mu.Lock()
	begun := m.begun
	ms.mu.Unlock()
	if !begun {
		if err := ms.tooMany(); err != nil {
			return err
		}
	}
	ms.mu.Lock()
	m.begun = true
	ms.mu.Unlock()
	return nil
}

// wait returns when nobody is worked on.
func (ms *members) wait() { ms.workers.Wait() }

// close ends all connections, side by side: a far side that hangs takes its time.
func (ms *members) close() {
	ms.wait()
	for _, m := range ms.all {
		ms.workers.Go(func() { ms.hangUp(m) })
	}
	ms.wait()
}
