package follow

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
)

var errRefuses = errors.New("10-smoke ended with exit code 7: no index.html")

// isDrained: the application is out of service, as far as the volume knows.
func (w *world) isDrained() bool {
	w.t.Helper()
	v, err := release.Open(w.member)
	must(w.t, err)
	defer func() { _ = v.Close() }()
	drained, err := v.Drained()
	must(w.t, err)
	return drained
}

// What a program of stage.d or drain.d refuses does not become current, what is served is in
// service, and both are tried again.
func TestAProgramRefuses(t *testing.T) {
	for name, set := range map[string]func(w *world, p func(pointer.Pointer) error){
		"stage.d": func(w *world, p func(pointer.Pointer) error) { w.stage = p },
		"drain.d": func(w *world, p func(pointer.Pointer) error) { w.drain = p },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 3)
			w.follow(t, w.follower(), func() {
				w.pass(longest)
				refuses := int64(2)
				set(w, func(p pointer.Pointer) error {
					if p.Generation == refuses {
						return errRefuses
					}
					return nil
				})
				w.say(w.names(2, 2))
				w.pass(time.Hour)
				w.on(1, 1)
				if !strings.Contains(w.told.Trouble, errRefuses.Error()) || w.lines("level=WARN") != 1 || w.isDrained() {
					t.Errorf("told %+v; log:\n%s", w.told, w.log.String())
				}
				if n := w.stages + w.drains; n < 20 || n > 2*int(time.Hour/mostPause)+20 {
					t.Errorf("%d tries in an hour", n)
				}
				w.say(w.names(3, 3))
				w.pass(longest)
				w.on(3, 3)
				if w.told.Trouble != "" || w.isDrained() {
					t.Errorf("told %+v", w.told)
				}
			})
		})
	}
}

// What was let through is not asked about again, though the flip is late.
func TestStageIsAskedOnce(t *testing.T) {
	w := newWorld(t, 2)
	w.follow(t, w.follower(), func() {
		w.pass(longest)
		w.drain = func(pointer.Pointer) error { return errRefuses }
		w.say(w.names(2, 2))
		w.pass(time.Hour)
		if w.stages != 1 || w.drains < 10 {
			t.Errorf("stage.d ran %d times, drain.d %d", w.stages, w.drains)
		}
	})
}

// The pointer may move while drain.d runs. It counts then as it does before.
func TestAPointerThatMovesDuringTheDrain(t *testing.T) {
	for name, tc := range map[string]struct {
		then   func(w *world) pointer.Pointer
		on     int
		drains int
	}{
		"to another release": {func(w *world) pointer.Pointer { return w.names(3, 3) }, 3, 2},
		"back":               {func(w *world) pointer.Pointer { return w.names(3, 1) }, 1, 1},
		"and says the same": {func(w *world) pointer.Pointer {
			p := w.names(2, 2)
			p.Revision = 7
			return p
		}, 2, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 3)
			w.follow(t, w.follower(), func() {
				w.pass(longest)
				moved := false
				w.drain = func(pointer.Pointer) error {
					if !moved {
						moved = true
						w.say(tc.then(w))
					}
					return nil
				}
				w.say(w.names(2, 2))
				w.pass(longest)
				w.on(tc.then(w).Generation, tc.on)
				if w.drains != tc.drains || w.ran != 1 || w.isDrained() {
					t.Errorf("%d drains, %d runs", w.drains, w.ran)
				}
			})
		})
	}
}

// Whatever comes between drain and flip, the application does not stay out of service: neither
// where the store is away, nor where the pointer is refused, nor when the follower was killed.
func TestNobodyStaysDrained(t *testing.T) {
	spoils := map[string]func(w *world){
		"the store is away": func(w *world) {
			w.mu.Lock()
			w.away = errAway
			w.mu.Unlock()
		},
		"the pointer is refused": func(w *world) { w.write([]byte(`{"generation": 3}`)) },
	}
	for name, spoil := range spoils {
		for _, killed := range []bool{false, true} {
			for _, failing := range []bool{false, true} {
				w := newWorld(t, 2)
				w.t = t
				w.follow(t, w.follower(), func() {
					w.pass(longest)
					if failing { // once
						w.program = func(context.Context) error { w.program = nil; return errors.New("50-reload failed") }
					}
					w.drain = func(pointer.Pointer) error {
						spoil(w)
						if killed {
							<-w.ctx.Done()
							return w.ctx.Err()
						}
						return nil
					}
					w.say(w.names(2, 2))
					w.pass(longest)
					if !killed {
						w.pass(2 * mostPause)
					}
				})
				if killed {
					if !w.isDrained() {
						t.Fatalf("%s: it is not drained", name)
					}
					w.follow(t, w.follower(), func() { w.pass(longest + 2*mostPause) })
				}
				if is := w.holds(); is.generation != 1 || !is.done || w.isDrained() || w.told.Trouble == "" || w.ran == 0 {
					t.Errorf("%s, killed %v, failing %v: it is %+v after %d runs; log:\n%s", name, killed, failing, is, w.ran, w.log.String())
				}
				w.away, w.drain = nil, func(pointer.Pointer) error { return nil }
				w.follow(t, w.follower(), func() {
					w.say(w.names(4, 2))
					w.pass(longest)
					w.on(4, 2)
				})
			}
		}
	}
}

// An application that does not come up keeps its member from nothing: neither from another release,
// nor from going back, and nobody is told that a program failed.
func TestProgramsThatNeverEnd(t *testing.T) {
	for name, n := range map[string]int{"another release": 3, "back": 1} {
		for _, drains := range []bool{false, true} {
			w := newWorld(t, 3)
			w.follow(t, w.follower(), func() {
				w.pass(longest)
				joined := false
				w.program = func(ctx context.Context) error {
					if w.holds().release == w.releases[1].ID {
						joined = true
						<-ctx.Done()
						return ctx.Err()
					}
					if joined { // the unit was about to end, and says of what was before
						joined = false
						return errors.New("a newer generation is active")
					}
					return nil
				}
				if drains {
					w.drain = func(pointer.Pointer) error { return nil }
				}
				w.say(w.names(2, 2))
				w.pass(time.Hour)
				if is := w.holds(); is.generation != 2 || is.done || w.ran != 1 {
					t.Errorf("it is %+v after %d runs", is, w.ran)
				}
				w.say(w.names(3, n))
				w.pass(2 * longest)
				w.on(3, n)
				if w.told.Trouble != "" || w.isDrained() {
					t.Errorf("told %+v", w.told)
				}
			})
			for _, r := range w.reports {
				if !r.Ready {
					t.Errorf("%s: it reported %+v", name, r)
				}
			}
		}
	}
}

// What the pointer says meanwhile may be the same for this member: the programs go on, and are
// waited for.
func TestAPointerThatMovesDuringThePrograms(t *testing.T) {
	w := newWorld(t, 2)
	w.follow(t, w.follower(), func() {
		w.pass(longest)
		end := time.Now().Add(3 * time.Minute)
		w.program = func(ctx context.Context) error { // as a unit that runs already
			select {
			case <-time.After(time.Until(end)):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		for revision := range int64(5) {
			p := w.names(2, 2)
			p.Revision = revision
			w.say(p)
			w.pass(30 * time.Second)
			if is := w.holds(); is.generation != 2 || is.done {
				t.Errorf("it is %+v", is)
			}
		}
		w.pass(time.Minute)
		w.on(2, 2)
		if w.told.Trouble != "" || len(w.reports) != 1 {
			t.Errorf("told %+v, reports %v", w.told, w.reports)
		}
	})
}
