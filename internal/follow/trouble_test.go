package follow

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"ebs-release/internal/pointer"
	"ebs-release/internal/status"
	"ebs-release/internal/trouble"
)

// The publisher hears once why a member is not on a generation, whatever numbers are in the words,
// and again when another one is wanted; what passes by itself it does not hear.
func TestThePublisherHearsOfTrouble(t *testing.T) {
	for name, tc := range map[string]struct {
		set     func(w *world)
		on      int64 // what it has reported is on
		ready   bool
		refused bool
		why     string // "": it hears nothing
	}{
		"stage.d refuses": {func(w *world) {
			n := 0
			w.stage = func(pointer.Pointer) error { n++; return Refusal{fmt.Errorf("10-smoke failed at try %d", n)} }
		}, 1, true, true, "10-smoke failed at try 1"},
		"stage.d could not run": {func(w *world) {
			w.stage = func(pointer.Pointer) error { return errors.New("no systemd") }
		}, 1, true, false, "no systemd"},
		"drain.d refuses": {func(w *world) {
			w.drain = func(pointer.Pointer) error { return Refusal{errors.New("10-lb failed")} }
		}, 1, true, false, "10-lb failed"},
		"a program fails": {func(w *world) {
			w.program = func(context.Context) error { return errors.New("50-reload failed") }
		}, 2, false, false, "programs: 50-reload failed"},
		"packs cannot be had":     {func(w *world) { w.broken = errors.New("no packs") }, 1, true, false, "fetch pack "},
		"the pointer is unsigned": {func(w *world) { w.secret, _ = pointer.NewKey() }, 1, true, false, "the pointer http://store/release.json is refused"},
		"the store is away":       {func(w *world) { w.away = errAway }, 1, true, false, ""},
		"the boot is not over":    {func(w *world) { w.booting = errors.New("booting") }, 1, true, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 3)
			w.follow(t, w.follower(), func() {
				w.pass(longest)
				tc.set(w)
				w.say(w.names(2, 2))
				w.pass(time.Hour)
				w.mu.Lock()
				heard := w.complain
				w.mu.Unlock()
				if tc.why == "" {
					if len(heard) != 0 {
						t.Errorf("it heard %+v", heard)
					}
					return
				}
				want := complaint{
					status.Reported{VolumeID: "vol-1", Generation: tc.on, Release: w.releases[tc.on-1].ID, Ready: tc.ready},
					trouble.Trouble{Generation: 2, Refused: tc.refused, Why: tc.why},
				}
				if len(heard) != 1 || heard[0].of != want.of || heard[0].trouble.Generation != 2 ||
					heard[0].trouble.Refused != tc.refused || len(heard[0].trouble.Why) < len(tc.why) || heard[0].trouble.Why[:len(tc.why)] != tc.why {
					t.Errorf("it heard %+v, want %+v", heard, want)
				}
				// The same pointer is written again: what programs say of the release is said again.
				before, again := 1, w.names(2, 2)
				again.Revision = 3
				w.say(again)
				w.pass(time.Hour)
				if tc.refused || !tc.ready {
					before = 2
				}
				w.say(w.names(3, 3))
				w.pass(time.Hour)
				w.mu.Lock()
				defer w.mu.Unlock()
				if before == 2 && w.complain[1].trouble.Revision != 3 {
					t.Errorf("it heard %+v", w.complain)
				}
				if n := len(w.complain); n != before+1 || w.complain[before].trouble.Generation != 3 {
					t.Errorf("it heard %+v", w.complain)
				}
			})
		})
	}
}

// What could not be told is told later, and not at each look.
func TestAComplaintThatIsRefused(t *testing.T) {
	w := newWorld(t, 2)
	w.follow(t, w.follower(), func() {
		w.pass(longest)
		w.stage = func(pointer.Pointer) error { return Refusal{errors.New("no")} }
		w.reportIt = errors.New("UnauthorizedOperation")
		w.say(w.names(2, 2))
		w.pass(time.Hour)
		w.mu.Lock()
		if n := len(w.complain); n < 5 || n > int(time.Hour/complainRest)+1 {
			t.Errorf("it was told %d times in an hour", n)
		}
		w.reportIt, w.complain = nil, nil
		w.mu.Unlock()
		w.pass(time.Hour)
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.complain) != 1 || w.told.Trouble != "no" {
			t.Errorf("it heard %+v, and told %q", w.complain, w.told.Trouble)
		}
	})
}
