package launch

import (
	"context"
	"time"
)

// round is one question to the application's programs. They may take longer than the group waits
// for a heartbeat, and than a gate may stay open. The zero value is none.
type round struct {
	stop   context.CancelFunc
	over   func() error // not nil: it was stopped, or its time was up
	answer chan error   // gets one
}

// begin begins a round, unless one is under way.
func (r *round) begin(ctx context.Context, h Hook) {
	if r.answer != nil {
		return
	}
	ctx, stop := context.WithTimeout(ctx, h.Timing.Round)
	*r = round{stop, ctx.Err, make(chan error, 1)}
	go func(answer chan<- error) { answer <- h.Serves(ctx) }(r.answer)
}

func (r *round) end() {
	if r.stop != nil {
		r.stop()
	}
}

// stuck: it is to have ended, and goes on.
func (r *round) stuck() bool { return r.over != nil && r.over() != nil }

// wait waits for the answer, but for no longer than to the next look.
func (r *round) wait(ctx context.Context, h Hook) (answered bool, err error) {
	select {
	case err = <-r.answer: // of none: never
	case <-time.After(h.Timing.step()):
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if err == nil {
		err = r.over() // what it was asked about has gone meanwhile
	}
	r.stop()
	*r = round{}
	return true, err
}
