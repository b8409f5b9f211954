package protocol

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/pointer"
)

// The mutants: each is the protocol with one part of the proof left out.
const (
	noReread             = "no re-read"
	reportAfterReread    = "report after re-read"
	activateBeforeCommit = "activate before commit"
	listOnce             = "list once"
	noSettle             = "two listings at the same moment"
	noFence              = "no fence on the volume"
	reportBeforePrograms = "report before the programs"
	higherIsCurrent      = "a higher generation counts as current"
	takeOlder            = "an older pointer is taken"
	keepAsItIs           = "a re-read that keeps the volume, without catching up again"
	blindCommit          = "the pointer is written without comparing it"
	notCaughtUp          = "a second release server goes on from what it does not have"
	followAsksOnce       = "a follower does not ask once more before it flips"
	followReportsFirst   = "a follower reports before the programs"
	followIgnoresMark    = "a follower reports without the mark"
	followersNotAwaited  = "P5 does not wait for who follows"
	followsBack          = "a follower takes an older pointer"
	noVolumeLock         = "P0 activates without the volume's lock"
	noVolumeLockNorLook  = "P0 activates without the volume's lock, and nobody looks under the freeze"
	bootsOnStable        = "a boot takes the stable release, whatever it is given"
	bootsOnAnothersSide  = "a boot takes the side of another instance"
	followsStable        = "a follower takes the stable release, whatever it is given"
	rereadByGeneration   = "a re-read that compares the pointer's generation alone"
	raiseIsLost          = "the pointer of a rollout is written by comparing its generation alone"
	abortAtTheSame       = "an abort under the generation of the rollout"
	abortBelow           = "an abort under a generation below the rollout's"
	higherIsOnTarget     = "a driver takes a higher generation than the target for it"
)

// scenario is who takes part.
type scenario struct {
	name  string
	grain grain
	setup func(*world)
	size  size
}

// size says how many interleavings a scenario has.
type size int

const (
	small size = iota // about a thousand at most: with -short, which the inner loop and the race detector take, these are all
	large
	huge // too many for the mutants, which the others catch
)

// event is something that happens once, at any moment.
func (w *world) event(name string, do func()) {
	w.s.spawn(name, false, func(a *actor) { _ = a.step("now", func() string { do(); return "" }) })
}

var scenarios = slices.Concat(dialed, following, together, rolling, draining, driving, pooled, bringing)

// dialed: a publisher dials the members.
var dialed = []scenario{
	{"publish and boot", fine, func(w *world) {
		w.server().publish("A")
		w.up(w.add("m"))
	}, large},
	{"publish and boot, late listings", medium, func(w *world) {
		w.late = true
		w.server().publish("A")
		w.up(w.add("m"))
	}, large},
	{"publish and boot that catches up", fine, func(w *world) {
		w.packs = true
		w.server().publish("A")
		w.up(w.add("m"))
	}, large},
	{"publish and boot that catches up, late listings", medium, func(w *world) {
		w.packs, w.late = true, true
		w.server().publish("A")
		w.up(w.add("m"))
	}, large},
	{"publish and boot that loses two volumes", medium, func(w *world) {
		w.losses = 2
		w.server().publish("A")
		w.up(w.add("m"))
	}, small},
	{"publish and reboot", fine, func(w *world) {
		w.server().publish("A")
		b := w.serving("m")
		w.event("reboot", func() { w.reboot(b) })
	}, small},
	{"publish and reboot that catches up", fine, func(w *world) {
		w.packs = true
		w.server().publish("A")
		b := w.serving("m")
		w.event("reboot", func() { w.reboot(b) })
	}, small},
	{"publish and the pointer goes back and reboot", medium, func(w *world) {
		w.back, w.mayFail = true, true
		w.server().publish("A")
		b := w.serving("m")
		before := w.pointer
		w.event("restore", func() { w.pointer = before })
		w.event("reboot", func() { w.reboot(b) })
	}, large},
	{"publish and resume", fine, func(w *world) {
		w.server().publish("A")
		w.up(w.serving("m"))
	}, small},
	{"publish and resume, late listings", fine, func(w *world) {
		w.late = true
		w.server().publish("A")
		w.up(w.serving("m"))
	}, large},
	{"publish and boot and reboot in it", coarse, func(w *world) {
		w.reboots = true
		w.server().publish("A")
		b := w.add("m")
		w.up(b)
		w.event("reboot", func() { w.reboot(b) })
	}, huge},
	{"publish and second publish and boot that catches up", coarse, func(w *world) {
		w.packs = true
		s := w.server()
		s.publish("A")
		s.publish("B")
		w.up(w.add("m"))
	}, huge},
	{"publish that leaves its snapshot and converge that names it and boot that catches up", coarse, func(w *world) {
		w.packs, w.leaves = true, true
		s := w.server()
		s.publish("A")
		s.converge("B")
		w.up(w.add("m"))
	}, huge},
	{"publish that leaves its snapshot and second publish and converge", coarse, func(w *world) {
		w.packs, w.leaves = true, true
		s := w.server()
		s.publish("A")
		s.publish("B")
		s.converge("C")
	}, large},
	{"publish and boot and boot", coarse, func(w *world) {
		w.server().publish("A")
		m, n := w.add("m"), w.add("n")
		w.upThen(m, func() { w.up(n) }) // they are alike: m is the one that is first
	}, huge},
	{"publish and second publish and boot", coarse, func(w *world) {
		s := w.server()
		s.publish("A")
		s.publish("B")
		w.up(w.add("m"))
	}, huge},
	{"publish and second publish elsewhere, no lock, and a member", fine, func(w *world) {
		w.unlocked, w.packs = true, true
		w.server().publish("A")
		w.server().publish("B")
		w.serving("m")
	}, large},
	{"publish killed and converge elsewhere, no lock, and a member", fine, func(w *world) {
		w.unlocked, w.packs, w.mayFail = true, true, true
		a := w.server().publish("A")
		w.event("kill", func() { w.s.kill(a); w.freeLock("A") })
		w.server().converge("B")
		w.serving("m")
	}, large},
	{"publish killed and second publish and a member", fine, func(w *world) {
		w.mayFail = true
		s := w.server()
		a := s.publish("A")
		w.event("kill", func() { w.s.kill(a); w.freeLock("A") })
		s.publish("B")
		w.serving("m")
	}, small},
	{"publish killed and converge and a member", fine, func(w *world) {
		w.mayFail = true
		s := w.server()
		a := s.publish("A")
		w.event("kill", func() { w.s.kill(a); w.freeLock("A") })
		s.converge("B")
		w.serving("m")
	}, small},
	{"publish and converge and a member whose programs fail once", medium, func(w *world) {
		w.programs, w.failing = true, 1
		s := w.server()
		s.publish("A")
		s.converge("B")
		w.serving("m")
	}, small},
	{"publish and resume and programs", medium, func(w *world) {
		w.programs = true
		w.server().publish("A")
		w.up(w.serving("m"))
	}, small},
	{"converge and publish and a pointer that is an old copy", medium, func(w *world) {
		w.ahead(w.serving("m"))
		s := w.server()
		s.converge("A")
		s.publish("B")
	}, small},
}

// ahead has generation 3 active on a member, and the pointer still, or again, at 1.
func (w *world) ahead(b *box) {
	w.commits, w.history = []int64{3}, []pointer.Entry{{Committed: true, Generation: 3, Release: "r3"}}
	d := b.mounted
	d.image, d.done = image{3, "r3"}, 3
	d.tags.Generation, d.tags.Release = 3, "r3"
	b.views = []view{{Member: w.show(b)}}
}

func (w *world) freeLock(of string) {
	if w.holder == of {
		w.holder = ""
	}
}

func (x scenario) search(t *testing.T, mutant string, seed uint64) found {
	return search(t, func() subject {
		w := newWorld()
		w.mutant, w.grain, w.seed = mutant, x.grain, seed
		x.setup(w)
		return w
	})
}

func TestInterleavings(t *testing.T) {
	runs := make([]int, len(scenarios))
	t.Run("all", func(t *testing.T) {
		for i, x := range scenarios {
			if x.size > small && testing.Short() {
				continue
			}
			t.Run(x.name, func(t *testing.T) {
				t.Parallel()
				started := time.Now()
				f := x.search(t, "", 1)
				if f.bad != "" {
					t.Errorf("after %d runs: %s", f.runs, f.bad)
				}
				converged := func(end string) bool { return strings.Contains(end, "=0") }
				if !slices.ContainsFunc(slices.Collect(maps.Keys(f.ends)), converged) {
					t.Errorf("no publish ever converged: %v", f.ends)
				}
				later := func(end string) bool { return strings.Contains(end, namedLater) }
				if strings.Contains(x.name, "leaves its snapshot") && !slices.ContainsFunc(slices.Collect(maps.Keys(f.ends)), later) {
					t.Errorf("nobody ever named it: %v", f.ends)
				}
				runs[i] = f.runs
				t.Logf("%d interleavings run, which stand for %v; %d states; in %v; ends: %v", f.runs, f.orders, f.states, time.Since(started).Round(time.Millisecond), f.ends)
			})
		}
	})
	sum := 0
	for _, n := range runs {
		sum += n
	}
	fmt.Printf("%d interleavings\n", sum)
}

// TestInterleavingsRepeatBySeed: a member that is lost is left alone for a time with jitter.
// Whatever it is, nothing is stale; and the same seed has the same runs.
func TestInterleavingsRepeatBySeed(t *testing.T) {
	x := scenarios[slices.IndexFunc(scenarios, func(x scenario) bool { return x.name == "publish and reboot" })]
	told := func(seed uint64) string {
		f := x.search(t, "", seed)
		if f.bad != "" {
			t.Errorf("seed %d: %s", seed, f.bad)
		}
		return fmt.Sprintf("%d interleavings of %v, %d states, ends %v", f.runs, f.orders, f.states, f.ends)
	}
	different := map[string]bool{}
	seeds := uint64(5)
	if testing.Short() {
		seeds = 3
	}
	for seed := range seeds {
		once, again := told(seed), told(seed)
		if once != again {
			t.Errorf("seed %d: %s, and then %s", seed, once, again)
		}
		different[once] = true
	}
	if len(different) < 2 {
		t.Errorf("the seed makes no difference: %v", different)
	}
}

func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs the large scenarios")
	}
	mutants := []string{
		noReread, reportAfterReread, activateBeforeCommit, listOnce, noSettle, noFence, takeOlder, reportBeforePrograms, higherIsCurrent, keepAsItIs,
		blindCommit, notCaughtUp, followAsksOnce, followReportsFirst, followIgnoresMark, followsBack, followersNotAwaited,
		noVolumeLock, noVolumeLockNorLook,
		bootsOnStable, bootsOnAnothersSide, followsStable, rereadByGeneration, raiseIsLost, abortAtTheSame, abortBelow, higherIsOnTarget,
		flipsBlindly, bootFlips, countsForAll, leavesDrained, owesNothing, looksAtNoMark, bootMarks,
		seesNoneLate,
		servesWarmed, restsLast, nobodyWatches,
		claimsBrought, looksNowhere, forgetsServed, ownIsNotFirst,
	}
	t.Run("all", func(t *testing.T) {
		for _, m := range mutants {
			t.Run(m, func(t *testing.T) {
				t.Parallel()
				caught := slices.ContainsFunc(against(m), func(x scenario) bool {
					f := x.search(t, m, 1)
					if f.bad != "" {
						t.Logf("%s: caught by %q in run %d: %s", m, x.name, f.runs, f.bad)
					}
					return f.bad != ""
				})
				if !caught {
					t.Errorf("%s: survives", m)
				}
			})
		}
	})
	fmt.Printf("%d mutants\n", len(mutants))
}

// against are the scenarios that may catch a mutant.
func against(mutant string) []scenario {
	switch mutant {
	case followAsksOnce, followReportsFirst, followIgnoresMark, followsBack, followersNotAwaited:
		return following
	case noVolumeLock, noVolumeLockNorLook:
		return together
	case bootsOnStable, bootsOnAnothersSide, followsStable, rereadByGeneration, raiseIsLost, abortAtTheSame, abortBelow, higherIsOnTarget:
		return rolling
	case flipsBlindly, bootFlips, countsForAll, leavesDrained, owesNothing, looksAtNoMark, bootMarks:
		return draining
	case seesNoneLate:
		return driving
	case servesWarmed, restsLast, nobodyWatches:
		return pooled
	case claimsBrought, looksNowhere, forgetsServed, ownIsNotFirst:
		return bringing
	}
	return slices.DeleteFunc(slices.Clone(dialed), func(x scenario) bool { return x.size == huge })
}
