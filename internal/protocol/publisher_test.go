package protocol

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/fleet"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/push"
	"ebs-release/internal/volume"
)

// server is a release server with its own volume: the parts of its publishes.
type server struct {
	*world
	content    image
	trees      map[string]string // id -> digest
	publishing string            // who has the volume's lock
}

// desk is where the parts of one publish sit.
type desk struct {
	*server
	a     *actor
	name  string
	first []fleet.Member // what a mutant lists again and again
	late  func() error   // the commit that a mutant puts off
	began time.Time      // the step of the rollout that it drives
	knows int64          // the revision of the pointer that it has read or written last
}

func (w *world) server() *server {
	s := &server{world: w, content: image{1, "r1"}, trees: map[string]string{"r1": "d1"}}
	w.rooms = append(w.rooms, s)
	return s
}

// publish starts a publish of a release that is named like the publisher.
func (s *server) publish(name string) *actor {
	return s.run(name, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) { return p.Publish(ctx, name) })
}

func (s *server) converge(name string) *actor {
	return s.run(name, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) { return p.Converge(ctx) })
}

func (s *server) run(name string, do func(context.Context, *publish.Publisher) (publish.Outcome, error)) *actor {
	s.servers++
	return s.s.spawn(name, true, func(a *actor) {
		d := &desk{server: s, a: a, name: name}
		p := &publish.Publisher{
			Store: d, Tree: d, Packs: d, Snapshots: snapshots{d}, Fleet: d, Dialer: d,
			Settings: publish.Settings{
				Who: name, Region: region, Keep: 3, Parallel: 2, MemberTimeout: time.Hour, Snapshot: publish.SnapshotWaited, SnapshotDeadline: time.Hour,
				ConvergeDeadline: s.grain.deadline(), Settle: settle,
			},
			Jitter: jitter(s.seed),
			Talk: func(e publish.Event) {
				a.waits.Store(e.Phase == "P5" && s.grain < medium)
				d.hears(e)
			},
		}
		if s.nobodyDials {
			p.Dialer = nil
		}
		if s.together {
			p.Claim = d.claim
		}
		if s.mutant == noSettle {
			p.Settings.Settle = 1
		}
		if !s.packs {
			p.Keys = []string{name} // other ones than the pointer has: no packs lead from its snapshot
		}
		if s.leaves {
			p.Settings.Snapshot = publish.SnapshotLeft
		}
		o, err := do(a.ctx, p)
		s.s.mu.Lock()
		defer s.s.mu.Unlock()
		if a.dead.Load() {
			s.ends = append(s.ends, name+" killed")
			return
		}
		s.returned(name, o, err)
	})
}

// among is a step among publishers: one that is alone takes it by itself.
func (d *desk) among(name string, do func() string) error {
	if d.servers > 1 {
		return d.a.step(name, do)
	}
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	if err := d.alive(); err != nil {
		return err
	}
	do()
	return nil
}

func (d *desk) alive() error {
	if d.a.dead.Load() {
		return errDead
	}
	return nil
}

func (d *desk) Lock(context.Context, string) (unlock func() error, err error) {
	dead := d.among("lock", func() string {
		if d.holder != "" && !d.unlocked {
			err = pointer.ErrLocked
			return "held by " + d.holder
		}
		d.holder = d.name
		return ""
	})
	unlock = func() error {
		d.commitLate()
		return d.among("unlock", func() string { d.holder = ""; return "" })
	}
	return unlock, errors.Join(dead, err)
}

func (d *desk) Read(context.Context) (p pointer.Pointer, err error) {
	err = d.among("read", func() string { p = d.pointer; d.knows = p.Revision; return fmt.Sprint(p.Generation) })
	return p, err
}

// Document is the pointer as it is, for members that are told by ssh while a rollout is open.
func (d *desk) Document(context.Context) (document []byte, err error) {
	err = d.among("document", func() string {
		document, err = json.Marshal(d.pointer)
		return share(d.pointer)
	})
	return document, err
}

func (d *desk) CompareAndSwap(_ context.Context, from, to pointer.Pointer) error {
	if d.mutant == activateBeforeCommit {
		d.late = func() error { return d.commit(from, to) }
		return d.alive()
	}
	return d.commit(from, to)
}

func (d *desk) commitLate() {
	if d.late != nil {
		_ = d.late()
		d.late = nil
	}
}

func (d *desk) commit(from, to pointer.Pointer) (err error) {
	dead := d.a.step("commit", func() string {
		if d.packs && to.Generation > from.Generation && d.trees[from.Release] != from.Digest {
			d.bad = append(d.bad, fmt.Sprintf("%s goes on from %s, which its volume does not have", d.name, from.Release))
		}
		if d.mutant != blindCommit {
			err = pointer.CheckMove(d.pointer, from, to)
		}
		if err != nil {
			return "conflict"
		}
		d.write(to)
		d.knows = d.pointer.Revision
		return fmt.Sprint(to.Generation, to.Snapshots[region])
	})
	return errors.Join(dead, err)
}

// write moves the pointer.
func (w *world) write(to pointer.Pointer) {
	to.Revision = w.pointer.Revision + 1
	w.pointer = to
	newest := pointer.Held{Generation: to.Generation, Release: to.Release, Digest: to.Digest}
	if to.Rollout != nil {
		newest = to.Rollout.Held
	}
	w.note(newest)
	for _, b := range w.boxes {
		if t := w.target(b); !slices.Contains(w.given[b.id], t) {
			w.given[b.id] = append(w.given[b.id], t)
		}
	}
}

// note has what was committed in the history, once.
func (w *world) note(h pointer.Held) {
	is := func(e pointer.Entry) bool { return e.Generation == h.Generation && e.Release == h.Release }
	if h.Generation == 1 || slices.ContainsFunc(w.history, is) {
		return
	}
	if !w.rolls || len(w.commits) == 0 || h.Generation > slices.Max(w.commits) { // in a rollout, what follows from another order is looked at
		w.commits = append(w.commits, h.Generation)
	}
	w.history = append(w.history, pointer.Entry{Committed: true, Generation: h.Generation, Release: h.Release, Digest: h.Digest})
}

func (d *desk) Prune(context.Context, gc.Wanted) ([]string, error) { return nil, d.alive() }

func (d *desk) Untouched(context.Context, string) error { return d.alive() }

func (d *desk) History(context.Context) (past []pointer.Entry, err error) {
	if !d.leaves { // what it is read for then, nothing of this proof hangs on
		return nil, d.alive()
	}
	err = d.among("history", func() string { past = slices.Clone(d.history); return fmt.Sprint(past) })
	return past, err
}

func (d *desk) Asked(_ context.Context, generation int64, region, id string) error {
	if !d.leaves {
		return d.alive()
	}
	return d.among("asked", func() string {
		d.history = slices.Clone(d.history)
		for i := range d.history {
			if d.history[i].Generation == generation {
				d.history[i].Asked = map[string]string{region: id}
			}
		}
		return id
	})
}

func (d *desk) List(context.Context) (members []fleet.Member, err error) {
	if d.first != nil && d.mutant == listOnce {
		return d.first, d.alive()
	}
	err = d.a.choice("list", false, d.listings, func(way int) string {
		members = d.listing(way)
		for i, m := range members {
			if d.mutant == seesNoneLate {
				to := d.pointer.For(pointer.Instance{ID: m.InstanceID})
				members[i].Generation, members[i].Release = to.Generation, to.Release
			}
			if d.mutant == higherIsCurrent && m.Generation > d.pointer.Generation || d.mutant == followersNotAwaited {
				members[i].Generation, members[i].Release = d.pointer.Generation, d.pointer.Release
			}
		}
		return fmt.Sprint(members)
	})
	d.first = append([]fleet.Member{}, members...)
	return members, err
}

func (d *desk) Report(_ context.Context, volumeIDs []string, generation int64, release, state string) error {
	return d.a.step("report", func() string {
		for _, b := range d.boxes {
			for _, v := range b.disks {
				if slices.Contains(volumeIDs, v.id) {
					v.tags.Generation, v.tags.Release = generation, release
					if state != "" {
						v.tags.Pending = state == volume.StateHookFailed
					}
				}
			}
		}
		return fmt.Sprint(generation, volumeIDs)
	})
}

// Dial is no step: the session finds out whether the machine is there with its first one.
func (d *desk) Dial(_ context.Context, m fleet.Member) (publish.Session, error) {
	for _, b := range d.boxes {
		if b.id == m.InstanceID {
			return &session{desk: d, b: b}, d.alive()
		}
	}
	return nil, errors.New("no such machine")
}

type session struct {
	*desk
	b    *box
	life int // of the machine, plus one
}

// After one of these the publisher leaves the member alone for a time, with jitter.
var (
	errLost   = errors.New("the connection is lost")
	errNotOwn = errors.New("the pointer does not give that to this member")
	errEmpty  = errors.New("nothing is mounted, or not that release")
)

// jitter is random by the seed alone, whatever was asked before: a run can be repeated.
func jitter(seed uint64) func(time.Duration) time.Duration {
	return func(below time.Duration) time.Duration {
		return time.Duration(rand.New(rand.NewPCG(seed, uint64(below))).Int64N(int64(below)))
	}
}

// look is what the agent's verbs look at first: is the boot over?
func (s *session) look() error {
	if s.life == 0 {
		s.life = s.b.life + 1
	}
	switch {
	case s.life != s.b.life+1:
		s.life = 0 // connects again
		return errLost
	case s.b.locked || !s.b.ready:
		return push.ErrNotReady
	}
	return nil
}

func (s *session) on(what string, stays bool, do func() error) (err error) {
	dead := s.a.choice("on "+s.b.id+": "+what, stays, func() int { return 1 }, func(int) string {
		err = do()
		return strings.TrimPrefix(fmt.Sprint(err), "<nil>")
	})
	return errors.Join(dead, err)
}

func (s *session) Stage(_ context.Context, to push.Desired) (push.Fetched, error) {
	return push.Fetched{}, s.on("stage", false, func() error {
		if err := s.look(); err != nil {
			return err
		}
		if s.b.mounted == nil {
			return errEmpty
		}
		s.b.mounted.trees[to.Release] = true
		return nil
	})
}

// Activate looks, then flips: an `up` may start in between. Once it is under way on the member, it
// goes on without the publisher.
func (s *session) Activate(_ context.Context, to push.Desired) error {
	if s.drains {
		return s.activateDraining(to)
	}
	if s.grain < coarse {
		if err := s.on("activate, look", false, s.look); err != nil {
			return err
		}
	}
	err := s.on(fmt.Sprintf("activate %d", to.Generation), true, func() error {
		if err := s.isOwn(to); err != nil {
			return err
		}
		if s.grain >= coarse {
			if err := s.look(); err != nil {
				return err
			}
		}
		if s.life != s.b.life+1 {
			return errLost
		}
		return s.flip(s.b, to.Release, to.Generation)
	})
	s.commitLate()
	if err == nil && s.programs {
		err = s.runPrograms(to.Generation)
	}
	return err
}

// isOwn holds the publisher's word against the pointer that came with it.
func (s *session) isOwn(to push.Desired) error {
	if to.Whole == nil {
		return nil
	}
	var p pointer.Pointer
	if err := json.Unmarshal(to.Whole, &p); err != nil {
		return err
	}
	if own := p.For(s.b.instance()); own.Generation != to.Generation || own.Release != to.Release {
		return errNotOwn
	}
	return nil
}

// runPrograms is what the agent does after the flip: the answer follows from the mark alone.
func (s *session) runPrograms(generation int64) error {
	err := s.on("programs", true, func() error {
		d := s.b.mounted
		switch {
		case s.life != s.b.life+1 || d == nil:
			return errLost
		case d.generation != generation:
			return push.ErrFenced
		case d.done == generation:
			return nil
		case s.failing > 0:
			s.failing--
			return &push.HookError{Name: "50-reload", Code: 1}
		}
		d.done = generation
		return nil
	})
	if s.mutant == reportBeforePrograms {
		return nil
	}
	return err
}

func (s *session) Close() error { return nil }
