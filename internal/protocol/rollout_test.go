package protocol

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"ebs-release/internal/pointer"
	"ebs-release/internal/push"
	"ebs-release/internal/volume"
)

// rolled is the generation of a rollout: one number is left free below it, for a mutant.
const rolled = 3

func (b *box) instance() pointer.Instance { return pointer.Instance{ID: b.id} }

// target is what the pointer gives a machine.
func (w *world) target(b *box) image {
	p := w.pointer.For(b.instance())
	return image{p.Generation, p.Release}
}

// share is what is told of a rollout.
func share(p pointer.Pointer) string {
	if p.Rollout == nil {
		return ""
	}
	return fmt.Sprint(p.Revision, p.Rollout.Generation, p.Rollout.Share, p.Rollout.All, p.Rollout.Paused)
}

// before is an instance that is given a rollout earlier than another one.
func before(id string) string {
	r := theRollout()
	for n := 0; ; n++ {
		other := fmt.Sprint("other", n)
		if r.Place(pointer.Instance{ID: other}) < r.Place(pointer.Instance{ID: id}) {
			return other
		}
	}
}

func theRollout() *pointer.Rollout {
	return &pointer.Rollout{Held: pointer.Held{Generation: rolled, Release: "r3", Digest: "d3"}, Steps: []pointer.Step{{Members: 1}, {Percent: 100}}}
}

// sides: no machine is on a side that the pointer never gave it, and none is on another one than
// its own while a driver counts on it.
func (w *world) sides(b *box, say func(string, ...any)) {
	is := b.mounted.image
	if w.rolls && !slices.Contains(w.given[b.id], is) {
		say("%s serves %v, which the pointer never gave it: %v", b.id, is, w.given[b.id])
	}
	if seen := max(w.passed, b.sure); seen > 0 && seen == w.pointer.Revision && is != w.target(b) {
		say("%s serves %v, its target is %v, and a driver has seen all members on theirs", b.id, is, w.target(b))
	}
}

// stranded says who is above what it is given, in the end: no fence lets it go back.
func (w *world) stranded(b *box) string {
	if to := w.target(b); w.rolls && !w.back && b.serves() > to.generation {
		return fmt.Sprintf("%s serves %v in the end, and is given %v", b.id, b.mounted.image, to)
	}
	return ""
}

// driver is a model of who drives a rollout: each of its steps is a write of the pointer, and a
// look at the members that waits until all who have reported are on their own target.
type driver struct {
	*desk
	had pointer.Pointer
}

var errTaken = errors.New("the rollout is somebody else's now, or over")

// drive starts one that does some things, one after the other.
func (s *server) drive(name string, do ...func(*driver) error) *actor {
	s.servers++
	return s.s.spawn(name, false, func(a *actor) {
		d := &driver{desk: &desk{server: s, a: a, name: name}}
		end := "=0"
		for _, step := range do {
			if step(d) != nil {
				end = "=4"
				break
			}
		}
		s.s.mu.Lock()
		defer s.s.mu.Unlock()
		if a.dead.Load() {
			end = " killed"
		}
		s.ends = append(s.ends, name+end)
	})
}

// change writes the pointer, until nobody else is faster.
func (d *driver) change(what string, to func(pointer.Pointer) (pointer.Pointer, bool)) error {
	for {
		var p pointer.Pointer
		err := d.among("read", func() string { p = d.pointer; return fmt.Sprint(p.Generation, p.Revision, share(p)) })
		if err != nil {
			return err
		}
		next, mine := to(p)
		if !mine {
			return errTaken
		}
		dead := d.a.step(what, func() string {
			switch {
			case d.mutant == raiseIsLost && p.Generation == d.pointer.Generation, d.mutant == abortAtTheSame, d.mutant == abortBelow:
			default:
				err = pointer.CheckMove(d.pointer, p, next)
			}
			if err != nil {
				return "conflict"
			}
			d.write(next)
			d.had = d.pointer
			return share(d.pointer)
		})
		if dead != nil || err == nil {
			return dead
		}
	}
}

// rollout changes the one that is open.
func (d *driver) rollout(what string, to func(*pointer.Pointer)) error {
	return d.change(what, func(p pointer.Pointer) (pointer.Pointer, bool) {
		if p.Rollout == nil {
			return p, false
		}
		r := *p.Rollout
		p.Rollout = &r
		to(&p)
		return p, true
	})
}

func begin(d *driver) error {
	return d.change("begin", func(p pointer.Pointer) (pointer.Pointer, bool) {
		is := p.Rollout == nil && p.Generation < rolled
		p.Rollout = theRollout()
		return p, is
	})
}

func raise(ids ...string) func(*driver) error {
	return func(d *driver) error {
		return d.rollout("raise", func(p *pointer.Pointer) { raiseTo(p, ids) })
	}
}

func raiseAll(d *driver) error {
	return d.rollout("raise to all", func(p *pointer.Pointer) { p.Rollout.All = true })
}

func pause(d *driver) error {
	return d.rollout("pause", func(p *pointer.Pointer) { p.Rollout.Paused = "by " + d.name })
}

func finish(d *driver) error {
	return d.rollout("finish", func(p *pointer.Pointer) {
		p.Generation, p.Release, p.Digest, p.Rollout = p.Rollout.Generation, p.Rollout.Release, p.Rollout.Digest, nil
		p.SnapshotOf = &pointer.Held{Generation: 1, Release: "r1", Digest: "d1"}
	})
}

func abort(d *driver) error {
	return d.rollout("abort", func(p *pointer.Pointer) {
		p.SnapshotOf = &pointer.Held{Generation: 1, Release: "r1", Digest: "d1"}
		switch p.Generation = p.Rollout.Generation + 1; d.mutant {
		case abortAtTheSame:
			p.Generation--
		case abortBelow:
			p.Generation -= 2
		}
		p.Rollout = nil
	})
}

// settle brings those that have reported to their own targets, and ends when all are there.
func onTarget(d *driver) error {
	for {
		var behind []*box
		var moved bool
		err := d.a.choice("look", false, d.canLook, func(int) string {
			behind, moved = d.off(), d.pointer.Revision != d.had.Revision
			switch {
			case moved:
				return "moved"
			case len(behind) == 0:
				d.passed = d.pointer.Revision
				return "all on target"
			}
			return fmt.Sprint(len(behind), " are not ", behind[0].id)
		})
		switch {
		case err != nil:
			return err
		case moved:
			return errTaken
		case len(behind) == 0:
			return nil
		}
		for _, b := range behind {
			_ = d.bring(b)
		}
	}
}

// canLook: a look that finds nothing to do says nothing.
func (d *driver) canLook() int {
	off := d.off()
	can := func(b *box) bool {
		ahead := d.show(b).Generation > d.had.For(b.instance()).Generation // it is left alone
		return !d.nobodyDials && b.ready && !b.locked && b.mounted != nil && !ahead
	}
	if d.pointer.Revision != d.had.Revision || len(off) == 0 || slices.ContainsFunc(off, can) {
		return 1
	}
	return 0
}

// off are the members that have reported, and not what they are given.
func (d *driver) off() (off []*box) {
	for _, b := range d.boxes {
		m := d.show(b)
		want := d.had.For(b.instance())
		on := m.Generation == want.Generation && m.Release == want.Release && m.State == volume.StateReady
		if d.mutant == higherIsOnTarget {
			on = m.Generation >= want.Generation
		}
		if m.InstanceID != "" && !b.told.IsZero() && !on {
			off = append(off, b)
		}
	}
	return off
}

// bring tells a member by ssh what the pointer gives it.
func (d *driver) bring(b *box) error {
	s := &session{desk: d.desk, b: b}
	to := push.Desired{Pointer: d.had.For(b.instance())}
	if _, err := s.Stage(context.Background(), to); err != nil {
		return err
	}
	if err := s.Activate(context.Background(), to); err != nil {
		return err
	}
	return d.a.step("report", func() string {
		if v := b.mounted; v != nil {
			v.tags.Generation, v.tags.Release, v.tags.Ready, v.tags.Pending = to.Generation, to.Release, true, false
		}
		return ""
	})
}

// rolling: rollouts.
var rolling = []scenario{
	{"rollout to this one, finished, and boot", fine, func(w *world) {
		w.rolling()
		w.up(w.add("m"))
		w.server().drive("A", begin, raise("m"), onTarget, finish, onTarget)
	}, large},
	{"rollout to another one, then to all, finished, and boot", fine, func(w *world) {
		w.rolling()
		w.up(w.add("m"))
		w.server().drive("A", begin, raise(before("m")), onTarget, raiseAll, onTarget, finish, onTarget)
	}, large},
	{"rollout to this one, aborted, and boot", fine, func(w *world) {
		w.rolling()
		w.up(w.add("m"))
		w.server().drive("A", begin, raise("m"), onTarget, abort, onTarget)
	}, large},
	{"rollout to a member, aborted, and reboot", medium, func(w *world) {
		w.rolling()
		b := w.serving("m")
		w.server().drive("A", begin, raise("m"), onTarget, abort, onTarget)
		w.event("reboot", func() { w.reboot(b) })
	}, large},
	{"rollout to a member that follows, finished", fine, func(w *world) {
		w.rolling()
		w.followed()
		w.follow(w.serving("m"))
		w.server().drive("A", begin, raise("m"), onTarget, raiseAll, finish, onTarget)
	}, small},
	{"rollout to a member that follows, aborted, and its follower is killed", fine, func(w *world) {
		w.rolling()
		w.followed()
		b := w.serving("m")
		w.follow(b)
		w.server().drive("A", begin, raise("m"), onTarget, abort, onTarget)
		w.event("kill", func() { w.followAgain(b) })
	}, large},
	{"rollout to a member that follows, aborted by another driver", fine, func(w *world) {
		w.rolling()
		w.followed()
		w.begun()
		w.follow(w.serving("m"))
		w.server().drive("A", raise("m"), onTarget, finish)
		w.server().drive("B", abort, onTarget)
	}, large},
	{"rollout to one of two members, aborted by another driver", medium, func(w *world) {
		w.rolling()
		w.serving("m")
		w.serving(before("m"))
		w.server().drive("A", begin, raise(before("m")), onTarget, raiseAll, finish, onTarget)
		w.server().drive("B", abort, onTarget)
	}, large},
	{"rollout to a member, paused by another driver", fine, func(w *world) {
		w.rolling()
		w.serving("m")
		w.server().drive("A", begin, raise("m"), onTarget, finish, onTarget)
		w.server().drive("B", pause)
	}, small},
	{"rollout to a member that follows, raised by one driver and paused by another", fine, func(w *world) {
		w.rolling()
		w.followed()
		w.begun()
		w.follow(w.serving("m"))
		w.server().drive("A", raise("m"), onTarget)
		w.server().drive("B", pause)
	}, small},
	{"rollout to a member, and paused and aborted by another driver", fine, func(w *world) {
		w.rolling()
		w.serving("m")
		w.server().drive("A", begin, raise("m"), onTarget, finish, onTarget)
		w.server().drive("B", pause, abort, onTarget)
	}, large},
	{"rollout whose driver is killed, aborted by another, and a member", fine, func(w *world) {
		w.rolling()
		w.serving("m")
		a := w.server().drive("A", begin, raise("m"), onTarget, raiseAll, onTarget, finish, onTarget)
		w.event("kill", func() { w.s.kill(a) })
		w.server().drive("B", abort, onTarget)
	}, large},
	{"rollout raised by one driver, aborted by another, and boot", coarse, func(w *world) {
		w.rolling()
		w.begun()
		w.up(w.add("m"))
		w.server().drive("A", raise("m"))
		w.server().drive("B", abort, onTarget)
	}, large},
	{"rollout raised by one driver, finished by another, and boot", coarse, func(w *world) {
		w.rolling()
		w.begun()
		w.up(w.add("m"))
		w.server().drive("A", raise("m"))
		w.server().drive("B", finish, onTarget)
	}, large},
	{"rollout to this one, and converge and boot", medium, func(w *world) {
		w.rolling()
		w.begun("m")
		w.server().converge("C")
		w.up(w.add("m"))
	}, large},
	{"rollout to another one, aborted, and converge and a member", medium, func(w *world) {
		w.rolling()
		w.serving("m")
		w.begun(before("m"))
		w.server().drive("A", abort)
		w.server().converge("C")
	}, large},
	{"rollout to a member, and converge and resume", medium, func(w *world) {
		w.rolling()
		b := w.serving("m")
		w.begun("m")
		w.server().converge("C")
		w.up(b)
	}, large},
	{"rollout on a pointer that is an old copy, and a member", fine, func(w *world) {
		w.rolling()
		w.back = true
		w.ahead(w.serving("m"))
		w.given["m"] = append(w.given["m"], image{3, "r3"})
		w.server().drive("A", begin, raise(before("m")), onTarget)
		w.server().drive("B", abort, onTarget)
	}, small},
}

// begun: a rollout is open, and given to some.
func (w *world) begun(to ...string) {
	p := w.pointer
	p.Rollout = theRollout()
	raiseTo(&p, to)
	w.write(p)
}

// raiseTo gives it to those whom a share of just these would have in it.
func raiseTo(p *pointer.Pointer, ids []string) {
	var all []pointer.Instance
	for _, id := range ids {
		all = append(all, pointer.Instance{ID: id})
	}
	r := p.Rollout.Raised(all, len(all))
	p.Rollout = &r
}

func (w *world) rolling() { w.rolls, w.packs = true, true }
