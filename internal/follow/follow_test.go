package follow

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
)

// longest is how long a new pointer may go unseen.
const longest = interval + time.Second

func TestItGoesWhereThePointerGoes(t *testing.T) {
	w := newWorld(t, 6)
	w.follow(t, w.follower(), func() {
		w.pass(longest)
		w.on(1, 1)
		if w.ran != 0 || len(w.reports) != 0 {
			t.Errorf("what the boot did is done again: %d runs, %d reports", w.ran, len(w.reports))
		}
		for n := 2; n <= 5; n++ {
			w.say(w.names(int64(n), n))
			w.pass(longest)
			w.on(int64(n), n)
		}
		w.say(w.names(6, 4)) // a rollback
		w.pass(longest)
		w.on(6, 4)
	})
	if w.ran != 5 || len(w.reports) != 5 || w.told.Generation != 6 || w.told.Trouble != "" {
		t.Errorf("%d runs, reports %v, told %+v", w.ran, w.reports, w.told)
	}
	v, err := release.Open(w.member)
	must(t, err)
	defer v.Close()
	if held, err := v.Releases(); err != nil || len(held) != 3 {
		t.Errorf("it keeps %v, %v", held, err)
	}
}

// A pointer that did not change costs a question.
func TestTheSamePointerCostsNothing(t *testing.T) {
	w := newWorld(t, 1)
	w.follow(t, w.follower(), func() {
		w.pass(time.Hour)
		w.on(1, 1)
	})
	if most := int(time.Hour/fullEvery) * 5 / 4; w.opened > most {
		t.Errorf("the volume was opened %d times in an hour", w.opened)
	}
	if n, least := len(w.looks), int(time.Hour/interval); n < least-1 || n > least*5/4 {
		t.Errorf("%d looks in an hour", n)
	}
}

// What is kept is kept by number, whatever room there is.
func TestOldReleasesGo(t *testing.T) {
	w := newWorld(t, 2)
	f := w.follower()
	f.Keep = 1
	w.follow(t, f, func() {
		w.say(w.names(2, 2))
		w.pass(longest)
		w.on(2, 2)
	})
	v, err := release.Open(w.member)
	must(t, err)
	defer v.Close()
	if held, err := v.Releases(); err != nil || len(held) != 1 {
		t.Errorf("it keeps %v, %v", held, err)
	}
}

// What failed for an hour is tried seldom. Another pointer is tried at once, and soon again.
func TestAnotherPointerIsNotKeptWaiting(t *testing.T) {
	w := newWorld(t, 3)
	w.follow(t, w.follower(), func() {
		w.broken = errAway
		w.say(w.names(2, 2))
		w.pass(time.Hour)
		w.say(w.names(3, 3))
		w.pass(longest)
		w.broken = nil
		w.pass(3 * interval)
		w.on(3, 3)
	})
}

// Members that start together do not ask together.
func TestLooksAreSpread(t *testing.T) {
	w := newWorld(t, 1)
	w.follow(t, w.follower(), func() {
		before := w.told // the first has not looked yet
		for range 50 {
			go w.follower().Run(w.ctx, before)
		}
		w.pass(interval)
		slices.SortFunc(w.looks, time.Time.Compare)
		if first := w.looks[len(w.looks)/4].Sub(w.looks[0]); first > interval/2 || first < interval/50 {
			t.Errorf("a quarter of them asked within %v", first)
		}
	})
}

// The fence goes up, the publisher hears of it, and the application does not.
func TestTheSameReleaseAgain(t *testing.T) {
	w := newWorld(t, 1)
	w.follow(t, w.follower(), func() {
		w.say(w.names(7, 1))
		w.pass(longest)
		w.on(7, 1)
	})
	if w.ran != 0 || len(w.reports) != 1 {
		t.Errorf("%d runs, reports %v", w.ran, w.reports)
	}
}

func TestWhatIsRefused(t *testing.T) {
	other, err := pointer.NewKey()
	must(t, err)
	for name, tc := range map[string]struct {
		say  func(w *world) []byte
		with func(w *world, f *Follower)
		want string
	}{
		"unsigned":    {say: func(w *world) []byte { p := w.names(6, 1); p.Edges = nil; return p.Render() }, want: "it is not signed at all"},
		"another key": {say: func(w *world) []byte { return w.signed(w.names(2, 2), other) }, want: "not signed by a trusted key"},
		"a trusted key that is another": {
			say:  func(w *world) []byte { return w.signed(w.names(2, 2), w.secret) },
			with: func(_ *world, f *Follower) { f.Trusted = []string{ourStore + ":" + other.Public().String()} },
			want: "not signed by a trusted key",
		},
		"no key on the volume": {
			say:  func(w *world) []byte { return w.signed(w.names(2, 2), w.secret) },
			with: func(w *world, _ *Follower) { must(w.t, os.Remove(w.member+"/.ebs-release/keys")) },
			want: "has none",
		},
		"another store": {
			say: func(w *world) []byte { p := w.names(2, 2); p.Store = "fedcba9876543210"; return w.signed(p, w.secret) }, want: "fedcba9876543210",
		},
		"below the fence":                   {say: func(w *world) []byte { return w.signed(w.names(4, 2), w.secret) }, want: "generation 5 was activated here"},
		"below the fence, the same release": {say: func(w *world) []byte { return w.signed(w.names(4, 1), w.secret) }, want: "generation 5 was activated here"},
		"the fence's, and another release":  {say: func(w *world) []byte { return w.signed(w.names(5, 2), w.secret) }, want: "a newer generation is active"},
		"below the least": {
			say:  func(w *world) []byte { return w.signed(w.names(6, 2), w.secret) },
			with: func(_ *world, f *Follower) { f.Least = 7 },
			want: "min-generation is 7",
		},
		"a changed byte": {
			say: func(w *world) []byte {
				return []byte(strings.Replace(string(w.signed(w.names(6, 2), w.secret)), `eu-west-1`, `eu-west-2`, 1))
			},
			want: "not signed by a trusted key",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2)
			w.t = t
			f := w.follower()
			w.follow(t, f, func() {
				w.say(w.names(5, 1))
				w.pass(longest)
				w.on(5, 1)
				if tc.with != nil {
					tc.with(w, f)
				}
				w.write(tc.say(w))
				w.pass(time.Hour)
				w.on(5, 1)
				if w.told.Trouble == "" || w.told.Since.IsZero() || w.lines(tc.want) != 1 || !strings.Contains(w.told.Trouble, tc.want) {
					t.Errorf("told %+v; log:\n%s", w.told, w.log.String())
				}
				if strings.Contains(name, "fence") || strings.Contains(name, "byte") || name == "another store" || name == "another key" {
					w.say(w.names(8, 2))
					w.pass(longest)
					w.on(8, 2)
					if w.told.Trouble != "" || w.lines("all is well again after 59m")+w.lines("all is well again after 1h") != 1 {
						t.Errorf("told %+v; log:\n%s", w.told, w.log.String())
					}
				}
			})
		})
	}
}

// The pointer that is read just before the flip counts.
func TestAPointerThatMovesMeanwhile(t *testing.T) {
	w := newWorld(t, 3)
	w.follow(t, w.follower(), func() {
		w.pass(longest)
		looks := 0
		w.onLook = func() { // in the look that sees generation 2
			if looks++; looks == 2 {
				w.say(w.names(3, 3))
			}
			if is := w.holds(); is.release == w.releases[1].ID {
				t.Error("the older release became current")
			}
		}
		w.say(w.names(2, 2))
		w.pass(longest)
		w.on(3, 3)
	})
	if w.ran != 1 || len(w.reports) != 1 {
		t.Errorf("%d runs, reports %v", w.ran, w.reports)
	}
}

// A store that goes away between the catch-up and the flip may have moved on: no flip.
func TestNoFlipWithoutAnAnswer(t *testing.T) {
	w := newWorld(t, 2)
	w.follow(t, w.follower(), func() {
		w.pass(longest)
		looks := 0
		w.onLook = func() {
			if looks++; looks == 2 {
				w.mu.Lock()
				w.away = errAway
				w.mu.Unlock()
			}
		}
		w.say(w.names(2, 2))
		w.pass(longest)
		if is := w.holds(); is.generation != 1 {
			t.Errorf("it is %+v", is)
		}
		w.onLook, w.away = nil, nil
		w.pass(mostPause)
		w.on(2, 2)
	})
}

func TestAStoreThatIsAwayForAnHour(t *testing.T) {
	w := newWorld(t, 2)
	w.follow(t, w.follower(), func() {
		w.pass(longest)
		w.away, w.looks = errAway, nil
		w.pass(time.Hour)
		w.on(1, 1)
		if n := len(w.looks); n < int(time.Hour/mostPause) || n > 50 {
			t.Errorf("it asked %d times in an hour", n)
		}
		if w.lines("connection refused") != 1 || !strings.Contains(w.told.Trouble, "connection refused") || time.Since(w.told.Since) < 59*time.Minute ||
			time.Since(w.told.Looked) < 59*time.Minute {
			t.Errorf("told %+v; log:\n%s", w.told, w.log.String())
		}
		w.away = nil
		w.say(w.names(2, 2))
		w.pass(mostPause)
		w.on(2, 2)
		if w.told.Trouble != "" || w.lines("all is well again") != 1 {
			t.Errorf("told %+v; log:\n%s", w.told, w.log.String())
		}
	})
}

// Whatever keeps it from a release, it says so, goes on serving, and gets there when that is over.
func TestTroubleOnTheWay(t *testing.T) {
	full := &os.PathError{Op: "write", Path: "pack", Err: syscall.ENOSPC}
	for name, tc := range map[string]struct {
		set   func(w *world, err error)
		err   error
		on    int64 // while it lasts
		ready bool
	}{
		"the disk is full":     {func(w *world, err error) { w.broken = err }, full, 1, true},
		"packs cannot be had":  {func(w *world, err error) { w.broken = err }, errAway, 1, true},
		"the boot is not over": {func(w *world, err error) { w.booting = err }, errors.New("booting"), 1, true},
		"a program fails":      {func(w *world, err error) { w.program = func(context.Context) error { return err } }, errors.New("50-reload ended with exit code 7"), 2, false},
		"it cannot report":     {func(w *world, err error) { w.reportIt = err }, errors.New("RequestLimitExceeded"), 2, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2)
			w.follow(t, w.follower(), func() {
				w.pass(longest)
				tc.set(w, tc.err)
				w.say(w.names(2, 2))
				w.pass(time.Hour)
				if is := w.holds(); is.generation != tc.on || is.done != tc.ready {
					t.Errorf("it is %+v", is)
				}
				if w.told.Trouble == "" || w.lines("level=WARN") != 1 || time.Since(w.told.Since) < 59*time.Minute || w.told.Generation != 2 {
					t.Errorf("told %+v; log:\n%s", w.told, w.log.String())
				}
				if most := int(time.Hour/mostPause) + 10; w.ran > most || w.opened > most && w.booting == nil {
					t.Errorf("%d runs, %d times opened in an hour", w.ran, w.opened)
				}
				if !tc.ready && (len(w.reports) != 1 || w.reports[0] != status.Reported{VolumeID: "vol-1", Generation: 2, Release: w.releases[1].ID}) {
					t.Errorf("reports %v", w.reports)
				}
				tc.set(w, nil)
				w.pass(mostPause + longest)
				w.on(2, 2)
				if w.told.Trouble != "" {
					t.Errorf("told %+v", w.told)
				}
			})
		})
	}
}

// Who starts and finds the release current and no mark was killed between flip and programs.
func TestKilledBetweenFlipAndPrograms(t *testing.T) {
	for _, killed := range []string{"before the flip", "after the flip", "after the programs"} {
		t.Run(killed, func(t *testing.T) {
			w := newWorld(t, 2)
			w.t = t
			w.say(w.names(2, 2))
			w.follow(t, w.follower(), func() { // up to there
				w.program = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
				if killed == "before the flip" {
					w.broken = errAway
				}
				w.pass(longest)
			})
			if is := w.holds(); (is.generation == 2) != (killed != "before the flip") || is.done != (killed == "before the flip") {
				t.Fatalf("it is %+v", is)
			}
			w.program, w.broken = nil, nil
			ran, reports := 1, 1
			if killed == "after the programs" {
				must(t, w.RunPrograms(t.Context()))
				ran = 0
			}
			w.ran = 0
			w.follow(t, w.follower(), func() {
				w.pass(longest)
				w.on(2, 2)
			})
			if w.ran != ran || len(w.reports) != reports {
				t.Errorf("%d runs, reports %v", w.ran, w.reports)
			}
		})
	}
}

// Told to stop, it stops, whatever it is doing, and says nothing of trouble.
func TestItStopsAnywhere(t *testing.T) {
	for name, block := range map[string]func(w *world, wait func(context.Context) error){
		"programs": func(w *world, wait func(context.Context) error) { w.program = wait },
		"packs":    func(w *world, _ func(context.Context) error) { w.broken = errAway },
		"nothing":  func(*world, func(context.Context) error) {},
	} {
		t.Run(name, func(t *testing.T) {
			for at := range 8 {
				w := newWorld(t, 2)
				w.say(w.names(2, 2))
				w.follow(t, w.follower(), func() {
					block(w, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
					w.pass(time.Duration(at) * 1700 * time.Millisecond)
				})
				if w.lines("canceled") != 0 || strings.Contains(w.told.Trouble, "canceled") {
					t.Errorf("%+v, log:\n%s", w.told, w.log.String())
				}
				w.program, w.broken = nil, nil
				w.follow(t, w.follower(), func() {
					w.pass(longest)
					w.on(2, 2)
				})
			}
		})
	}
}

func TestPausesGrowWithinBounds(t *testing.T) {
	var got []time.Duration
	for n := range 8 {
		got = append(got, backoff(interval, n))
	}
	want := "[10s 10s 20s 40s 1m20s 2m0s 2m0s 2m0s]"
	if fmt.Sprint(got) != want || backoff(time.Hour, 5) != time.Hour {
		t.Errorf("got %v, want %s", got, want)
	}
}
