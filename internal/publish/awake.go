package publish

import (
	"context"
	"sync"
	"time"
)

// A process that runs comes to each beat in time; one that was stopped, or whose machine was, comes
// late by as long as that was. On a busy machine it may be late, too, by less than longestBeat.
const (
	beat        = time.Second
	longestBeat = 4 * time.Second
)

// awake is a clock that stands still while this process does: nothing that happens on members by
// themselves, and no patience with them, is measured by the time in which nobody looked.
type awake struct {
	mu    sync.Mutex
	last  time.Time
	slept time.Duration
}

func newAwake() *awake { return &awake{last: time.Now()} }

// run beats until ctx ends.
func (a *awake) run(ctx context.Context) {
	for sleep(ctx, beat) == nil {
		a.now()
	}
}

// now is the time, less what this process has missed of it.
func (a *awake) now() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Now().Add(-a.missed())
}

// since is how long ago a time of this clock is.
func (a *awake) since(t time.Time) time.Duration { return a.now().Sub(t) }

// asleep is how much time this process has missed so far.
func (a *awake) asleep() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.missed()
}

func (a *awake) missed() time.Duration {
	now := time.Now()
	if gap := now.Sub(a.last); gap > longestBeat {
		a.slept += gap - beat
	}
	a.last = now
	return a.slept
}
