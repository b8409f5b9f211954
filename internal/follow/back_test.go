package follow

import (
	"testing"

	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
)

// Two caches, one of them stale, answer in turns. What was believed once is remembered, though it
// never became current.
func TestAStoreThatGoesBackAndForth(t *testing.T) {
	w := newWorld(t, 2)
	w.follow(t, w.follower(), func() {
		w.pass(longest)
		old, next := w.signed(w.names(1, 1), w.secret), w.signed(w.names(2, 2), w.secret)
		looks := 0
		w.onLook = func() {
			if looks++; looks%2 == 1 {
				w.write(next)
			} else {
				w.write(old)
			}
		}
		w.pass(10 * interval)
		if is := w.holds(); is.generation != 1 || w.lines("it goes back to generation 1, revision 0, from generation 2, revision 0") != 1 {
			t.Errorf("it is %+v, told %+v; log:\n%s", is, w.told, w.log.String())
		}
		w.onLook = nil
		w.write(old)
	})
	if w.told.Believed.Generation != 2 {
		t.Fatalf("told %+v", w.told)
	}
	w.follow(t, w.follower(), func() { // another process knows it
		w.pass(mostPause)
		if w.told.Trouble == "" {
			t.Errorf("told %+v", w.told)
		}
		w.say(w.names(2, 2))
		w.pass(longest)
		w.on(2, 2)
		if w.told.Trouble != "" {
			t.Errorf("told %+v", w.told)
		}
	})
}

// A revision that goes back is an old pointer as well: its keys may be old ones.
func TestARevisionThatGoesBack(t *testing.T) {
	w := newWorld(t, 1)
	of := func(generation, revision int64) pointer.Pointer {
		p := w.names(generation, 1)
		p.Revision = revision
		return p
	}
	w.follow(t, w.follower(), func() {
		w.say(of(2, 7))
		w.pass(longest)
		w.on(2, 1)
		w.say(of(2, 6))
		w.pass(longest)
		if w.lines("it goes back to generation 2, revision 6") != 1 || w.told.Trouble == "" {
			t.Errorf("told %+v; log:\n%s", w.told, w.log.String())
		}
		w.say(of(3, 1))
		w.pass(longest)
		w.on(3, 1)
		if w.told.Trouble != "" {
			t.Errorf("told %+v", w.told)
		}
	})
}

// The operator's words go before what was believed: a fence that was lowered, another volume.
func TestWhatWasBelievedIsForgotten(t *testing.T) {
	for name, do := range map[string]func(w *world){
		"a lower fence": func(w *world) {
			v, err := release.Open(w.member)
			must(w.t, err)
			defer v.Close()
			must(w.t, v.LowerFence(w.t.Context(), 3))
		},
		"another volume": func(w *world) {
			v, err := release.Open(w.member)
			must(w.t, err)
			defer v.Close()
			must(w.t, v.LowerFence(w.t.Context(), 3))
			w.told.Believed.VolumeID, w.told.Believed.Fence = "vol-0", 0
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.follow(t, w.follower(), func() {
				w.say(w.names(9, 1))
				w.pass(longest)
				w.on(9, 1)
			})
			do(w)
			w.follow(t, w.follower(), func() {
				w.say(w.names(3, 1))
				w.pass(longest)
				w.on(3, 1)
			})
		})
	}
}
