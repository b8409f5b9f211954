package launch

import (
	"context"
	"strings"
	"time"
)

// watch is what is known of an instance from one look to the next.
type watch struct {
	Hook
	target string    // the target lifecycle state, as last told; "": not yet
	done   string    // the target of the launch that is over
	alone  time.Time // since when the metadata service says that no group has the instance; zero: it does not
	pooled time.Time // when the instance was in the warm pool last
	closed time.Time // when a gate was closed last
	shut   time.Time // which one: since when it had been open
}

func warmed(state string) bool { return strings.HasPrefix(state, "Warmed:") }

// look asks where the instance belongs, and where its boot is. An instance that serves while it
// belongs into the warm pool is not listed with the group: a publish would not wait for it, and it
// would come back on an old release. So its gate is closed, and it reads the pointer again before
// it opens. A gate that has been open since before the pool counts for nothing.
func (w *watch) look(ctx context.Context) Boot {
	ctx, cancel := context.WithTimeout(ctx, w.Timing.Call)
	defer cancel()
	b, err := w.Boot()
	if err != nil {
		b.Says = err.Error()
	}
	asked := time.Now().Round(0) // by the clock, as b.Since is
	if w.pooled.After(asked) {   // which was set back
		w.pooled = asked
	}
	switch state, err := w.Target(ctx); {
	case err != nil: // which is no word that there is no group
		w.alone = time.Time{}
		w.Log.Debug("the metadata service does not say where this instance belongs", "error", err)
	case state == "":
		if w.alone.IsZero() {
			w.alone = time.Now()
		}
	default:
		w.target, w.alone = state, time.Time{}
		if warmed(state) {
			w.pooled = asked
		}
	}
	if !b.Closing && (!b.Ready || !b.Since.Before(w.pooled)) {
		return b
	}
	if !b.Since.Equal(w.shut) || time.Since(w.closed) > w.Timing.Close {
		w.closed, w.shut = time.Now(), b.Since
		w.Log.Info("this instance went into the warm pool: the gate is closed", "state", w.target)
		if err := w.Close(ctx); err != nil {
			w.Log.Error("cannot close the gate: it is tried again", "error", err)
		}
	}
	b.Ready, b.Says = false, "the gate has been open since before the warm pool"
	return b
}

// untilMoved returns when the instance is on its way to another lifecycle state. over: no group has
// it, or ctx has ended: then nobody waits for an answer.
func (w *watch) untilMoved(ctx context.Context) (over bool) {
	for w.look(ctx); w.target == w.done; w.look(ctx) {
		if w.target == "" && !w.alone.IsZero() && time.Since(w.alone) > w.Timing.Known {
			w.Log.Info("no Auto Scaling group has this instance: nothing is to be watched")
			return true
		}
		if w.pause(ctx) != nil {
			return true
		}
	}
	return false
}
