package protocol

import (
	"context"
	"fmt"
)

// The mutants of a warm pool.
const (
	servesWarmed  = "an instance serves in the warm pool"
	restsLast     = "an instance waits in the warm pool between its re-read and the gate"
	nobodyWatches = "nobody closes the gate on the way back into the warm pool"
)

// pooled: the group has a warm pool. Whoever is in there is in no listing of the group, and its
// target lifecycle state says so, of which the agent asks.
var pooled = []scenario{
	{"publish and boot into the warm pool and into service", coarse, func(w *world) {
		w.server().publish("A")
		w.up(w.warmed("m"))
	}, large},
	{"publish and boot into the warm pool and into service that catches up", coarse, func(w *world) {
		w.packs = true
		w.server().publish("A")
		w.up(w.warmed("m"))
	}, large},
	{"publish and way back into the warm pool and into service", medium, func(w *world) {
		w.server().publish("A")
		w.reused(w.serving("m"))
	}, small},
	{"publish and way back into the warm pool and into service that catches up", medium, func(w *world) {
		w.packs = true
		w.server().publish("A")
		w.reused(w.serving("m"))
	}, small},
}

// warmed adds a machine that is launched into the pool; the group takes it into service at any
// moment.
func (w *world) warmed(id string) *box {
	b := w.add(id)
	b.pools, b.pooled = true, true
	w.event("into service", func() { w.intoService(b) })
	return b
}

// intoService: from here on Auto Scaling lists it, as soon as its listings do.
func (w *world) intoService(b *box) { b.pooled, b.member = false, true }

// reused takes a member out of service, back into the pool, and into service again. Who watches
// looks more often than a publisher lists: without it no machine would come back (settle).
func (w *world) reused(b *box) {
	b.pools = true
	closed := false
	w.event("out of service", func() { b.pooled, b.member = true, false })
	when := func(ok func() bool) func() int {
		return func() int {
			if ok() {
				return 1
			}
			return 0
		}
	}
	if w.mutant != nobodyWatches {
		w.s.spawn("watch "+b.id, false, func(a *actor) {
			_ = a.choice("close the gate", false, when(func() bool { return b.pooled }), func(int) string {
				closed, b.open, b.ready = true, false, false
				w.up(b)
				return ""
			})
		})
	}
	w.s.spawn("into service", false, func(a *actor) {
		_ = a.choice("now", false, when(func() bool { return b.pooled && (closed || w.mutant == nobodyWatches) }), func(int) string {
			w.intoService(b)
			return ""
		})
	})
}

// Warmed asks for the target lifecycle state.
func (s *seat) Warmed(context.Context) (warmed bool, err error) {
	if !s.b.pools || s.mutant == servesWarmed || s.mutant == restsLast {
		return false, s.alive()
	}
	err = s.a.step("may serve", func() string { warmed = s.b.pooled; return fmt.Sprint(warmed) })
	return warmed, err
}

// rest waits in the pool.
func (s *seat) rest() error {
	return s.a.choice("rest", false, func() int {
		if s.b.pooled {
			return 0
		}
		return 1
	}, func(int) string { return "" })
}
