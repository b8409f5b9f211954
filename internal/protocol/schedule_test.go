package protocol

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// errDead is what the calls of an actor return after its machine or process died. They have no
// effect.
var errDead = errors.New("this process is dead")

// actor is a boot, a publish, or an event such as a reboot, in goroutines of its own. Its calls of
// steps wait for the scheduler.
type actor struct {
	name   string
	s      *scheduler
	ctx    context.Context
	cancel context.CancelFunc
	dead   atomic.Bool
	ended  bool
	clock  bool        // it decides by the clock
	waits  atomic.Bool // not forever, for its calls whose name begins with "on "
	saw    [32]byte    // a digest of all that it was told so far, in order
}

// call is a step that an actor is about to take.
type call struct {
	by    *actor
	name  string
	ways  func() int                  // how many outcomes it may have now
	do    func(way int) (told string) // its effect
	stays bool                        // it goes on when its actor dies: it happens on another machine
	taken chan struct{}
}

// scheduler lets one step happen at a time. All of it is inside a bubble of testing/synctest.
type scheduler struct {
	mu      sync.Mutex
	actors  []*actor
	waiting []*call
	arrived chan struct{} // a token: a call is waiting, or an actor ended
	group   sync.WaitGroup
	start   chan struct{} // closed when all actors of the first state are there
	started time.Time
	trace   []string
}

func newScheduler() *scheduler {
	return &scheduler{arrived: make(chan struct{}, 1), start: make(chan struct{}), started: time.Now()}
}

func (s *scheduler) arrive() {
	select {
	case s.arrived <- struct{}{}:
	default:
	}
}

// spawn starts an actor.
func (s *scheduler) spawn(name string, clock bool, do func(*actor)) *actor {
	a := &actor{name: name, s: s, clock: clock}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	s.actors = append(s.actors, a)
	s.group.Go(func() {
		<-s.start
		do(a)
		a.cancel()
		s.mu.Lock()
		a.ended = true
		s.mu.Unlock()
		s.arrive()
	})
	return a
}

// step is a call with one outcome.
func (a *actor) step(name string, do func() (told string)) error {
	return a.choice(name, false, func() int { return 1 }, func(int) string { return do() })
}

// choice waits until the scheduler takes the call, which has one of several outcomes.
func (a *actor) choice(name string, stays bool, ways func() int, do func(way int) string) error {
	s := a.s
	s.mu.Lock()
	if a.dead.Load() {
		s.mu.Unlock()
		return errDead
	}
	c := &call{by: a, name: name, ways: ways, do: do, stays: stays, taken: make(chan struct{})}
	s.waiting = append(s.waiting, c)
	s.mu.Unlock()
	s.arrive()
	<-c.taken
	if a.dead.Load() {
		return errDead
	}
	return nil
}

// kill ends an actor where it stands.
func (s *scheduler) kill(a *actor) {
	a.dead.Store(true)
	a.cancel()
	s.waiting = slices.DeleteFunc(s.waiting, func(c *call) bool {
		drop := c.by == a && !c.stays
		if drop {
			close(c.taken)
		}
		return drop
	})
}

// end kills all and waits.
func (s *scheduler) end() {
	s.mu.Lock()
	for _, a := range s.actors {
		s.kill(a)
	}
	for _, c := range s.waiting {
		close(c.taken)
	}
	s.waiting = nil
	s.mu.Unlock()
	s.group.Wait()
}

// option is what the scheduler can do next: take a call in one of its ways, or (no call) let time
// pass until somebody comes.
type option struct {
	*call
	way int
}

// options are in an order that depends on nothing but the state.
func (s *scheduler) options() []option {
	s.mu.Lock() // whom the clock wakes next comes without a word to the scheduler
	defer s.mu.Unlock()
	slices.SortFunc(s.waiting, func(c, d *call) int {
		return cmp.Or(strings.Compare(c.by.name, d.by.name), strings.Compare(c.name, d.name))
	})
	var all []option
	for _, c := range s.waiting {
		for way := range c.ways() {
			all = append(all, option{c, way})
		}
	}
	if slices.ContainsFunc(s.actors, s.sleeps) {
		all = append(all, option{})
	}
	return all
}

func names(options []option) string {
	var all strings.Builder
	for _, o := range options {
		if o.call == nil {
			all.WriteString("time; ")
		} else {
			all.WriteString(o.by.name + ": " + o.name + "; ")
		}
	}
	return all.String()
}

// sleeps: the actor waits for the clock, and not, or not only, for the scheduler.
func (s *scheduler) sleeps(a *actor) bool {
	if a.ended || a.dead.Load() {
		return false
	}
	for _, c := range s.waiting {
		if c.by == a && !(a.waits.Load() && strings.HasPrefix(c.name, "on ")) {
			return false
		}
	}
	return true
}

// take does it. It returns false when time passed and nothing happened.
func (s *scheduler) take(o option) bool {
	if o.call == nil {
		select {
		case <-s.arrived:
		default:
		}
		before := time.Now()
		select {
		case <-s.arrived:
		case <-time.After(longest):
			return false
		}
		s.trace = append(s.trace, fmt.Sprintf("%v pass", time.Since(before)))
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = slices.DeleteFunc(s.waiting, func(c *call) bool { return c == o.call })
	told := o.do(o.way)
	when := time.Duration(0)
	if o.by.clock {
		when = time.Since(s.started)
	}
	o.by.saw = sha256.Sum256(fmt.Appendf(o.by.saw[:], "%s|%s|%d", o.name, told, when))
	s.trace = append(s.trace, o.by.name+": "+o.name+": "+told)
	close(o.taken)
	return true
}

// longest is more than any pause that an actor makes.
const longest = 6 * time.Second

// key tells states apart. Two prefixes of runs with the same key have the same futures, so one is
// enough: what is shared is equal (shared), and an actor is a deterministic program, so what it
// does next follows from what it was told so far, in order (saw), and when, if it looks at the
// clock. Boots do not: their budgets are longer than a run.
func (s *scheduler) key(shared string) [32]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := []byte(shared)
	for _, a := range s.actors {
		b = fmt.Appendf(b, "\n%s %x %v %v", a.name, a.saw, a.dead.Load(), a.ended)
	}
	for _, c := range s.waiting {
		b = fmt.Appendf(b, "\n%s %s", c.by.name, c.name)
	}
	return sha256.Sum256(fmt.Appendf(b, "\n%v", time.Since(s.started)))
}

// branch is a decision of the run that is under way, and which of its options is being tried.
type branch struct {
	key   [32]byte
	of    int
	names string // of the options
	way   int
	below *big.Int // the orders found below it so far
}

// found is what a search found.
type found struct {
	runs   int      // executions, each with another order of steps
	states int      // different ones
	orders *big.Int // orders of steps that the runs stand for
	ends   map[string]int
	bad    string // what is wrong, with the trace; the search stops there
}

// subject is what is searched: a world in its first state.
type subject interface {
	scheduler() *scheduler
	shared() string // all of the state that actors share
	wrong() string  // what must never be; "" in a good state
	over() (end, wrong string)
}

// search goes through every order of steps, by running again and again from the start along the
// decisions of the branches.
func search(t *testing.T, build func() subject) found {
	f := found{orders: new(big.Int), ends: map[string]int{}}
	counts := map[[32]byte]*big.Int{} // orders from each state on
	var path []branch
	for f.bad == "" {
		f.runs++
		synctest.Test(t, func(t *testing.T) {
			w := build()
			s := w.scheduler()
			defer s.end()
			close(s.start)
			leaf := big.NewInt(1)
			for depth := 0; ; depth++ {
				synctest.Wait()
				if f.bad = w.wrong(); f.bad != "" {
					break
				}
				options := s.options()
				if len(options) == 0 {
					end, bad := w.over()
					f.ends[end]++
					f.bad = bad
					break
				}
				if depth == len(path) {
					key := s.key(w.shared())
					if n := counts[key]; n != nil {
						leaf = n
						break
					}
					path = append(path, branch{key: key, of: len(options), names: names(options), below: new(big.Int)})
				}
				if was, is := path[depth].names, names(options); was != is {
					f.bad = fmt.Sprintf("the run is not repeatable: it can go on with %s, and it was %s", is, was)
					break
				}
				if !s.take(options[path[depth].way]) {
					leaf = new(big.Int)
					break
				}
			}
			path[len(path)-1].below.Add(path[len(path)-1].below, leaf)
			if f.bad != "" {
				f.bad += "\n  " + strings.Join(s.trace, "\n  ")
			}
		})
		for len(path) > 0 && f.bad == "" {
			last := &path[len(path)-1]
			if last.way++; last.way < last.of {
				break
			}
			counts[last.key] = last.below
			path = path[:len(path)-1]
			if len(path) == 0 {
				f.orders = last.below
			} else {
				path[len(path)-1].below.Add(path[len(path)-1].below, last.below)
			}
		}
		if len(path) == 0 {
			break
		}
	}
	f.states = len(counts)
	return f
}
