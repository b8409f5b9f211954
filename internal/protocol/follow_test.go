package protocol

import (
	"errors"
	"fmt"

	"ebs-release/internal/pointer"
	"ebs-release/internal/push"
	"ebs-release/internal/status"
)

// follower is a member that looks at the pointer by itself: the order of internal/follow, in
// memory, as the real one has a real volume. TestFollowerOrder holds it to the real one.
type follower struct {
	*world
	b       *box
	a       *actor
	read    pointer.Pointer // last; what it says to this member is own
	refused bool            // what was read last
	drained image           // for which drain.d has run, since programs ran
	owed    bool            // programs may have to run for what is current
	fetched int64           // the generation that the pointer named for it when all was fetched
}

var (
	errMoved   = errors.New("the pointer has moved")
	errProgram = errors.New("a program failed")
)

// follow starts a follower on a machine. One that serves has looked before.
func (w *world) follow(b *box) {
	f := &follower{world: w, b: b}
	if d := b.mounted; d != nil {
		f.read = w.pointer
		b.memory.Reported = status.Reported{VolumeID: d.id, Generation: d.generation, Release: d.release, Ready: true}
	}
	f.start()
}

func (f *follower) start() {
	f.b.follows++
	f.owed = f.mutant != owesNothing
	f.b.follower = f.s.spawn(fmt.Sprintf("follow %d on %s", f.b.follows, f.b.id), false, func(a *actor) {
		f.a = a
		for f.look() == nil {
		}
	})
}

// followAgain is a follower that was killed, and started again: it has what it told last.
func (w *world) followAgain(b *box) {
	w.s.kill(b.follower)
	b.held = false
	(&follower{world: w, b: b}).start()
}

func same(p, q pointer.Pointer) bool { return p.Generation == q.Generation && p.Revision == q.Revision }

// due: a look at any other moment finds nothing to do, and ends as it began.
func (f *follower) due() int {
	d := f.b.mounted
	switch {
	case d == nil || f.b.locked || !f.b.ready:
		return 0
	case !same(f.read, f.pointer):
		return 1
	case f.refused && !(d.drained && f.mutant != looksAtNoMark && f.mutant != owesNothing):
		return 0
	case d.image != f.own(f.read), d.done != d.generation, f.b.memory.Reported != f.toReport(d):
		return 1
	}
	return 0
}

func (f *follower) toReport(d *disk) status.Reported {
	own := f.own(f.read)
	return status.Reported{VolumeID: d.id, Generation: own.generation, Release: own.release, Ready: d.done == d.generation}
}

// own is what a pointer says to this member.
func (f *follower) own(p pointer.Pointer) image {
	if f.mutant != followsStable {
		p = p.For(f.b.instance())
	}
	return image{p.Generation, p.Release}
}

func (f *follower) ask() (moved bool) {
	moved = !same(f.read, f.pointer)
	f.read = f.pointer
	return moved
}

// look is one look. It returns an error when the follower is dead.
func (f *follower) look() error {
	var d *disk
	err := f.a.choice("look", false, f.due, func(int) string {
		f.ask()
		d = f.b.mounted
		f.b.held = true
		return fmt.Sprint(f.read.Generation, f.read.Revision, share(f.read), d.id, d.image)
	})
	if err != nil {
		return err
	}
	for err = errMoved; errors.Is(err, errMoved); {
		if f.refused = !f.believe(d); f.refused {
			err = errRefused
			break
		}
		err = f.bring(d)
	}
	if err != nil {
		_ = f.settle(d)
	}
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if f.a.dead.Load() {
		return errDead
	}
	f.b.held = false
	return nil
}

// settle is for a look that failed: what drain.d has taken out of service is put into service
// again.
func (f *follower) settle(d *disk) error {
	f.s.mu.Lock()
	owed := f.drains && (f.owed || d.drained && f.mutant != looksAtNoMark && f.mutant != owesNothing)
	f.s.mu.Unlock()
	if !owed {
		return nil
	}
	return f.runPrograms(d)
}

func (f *follower) believe(d *disk) bool {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if f.a.dead.Load() {
		return false
	}
	before := f.b.memory.Believed
	now := status.Believed{VolumeID: d.id, Generation: f.read.Generation, Revision: f.read.Revision, Fence: d.generation}
	goesBack := f.own(f.read).generation < d.generation || d.id == before.VolumeID && d.generation >= before.Fence && now.OlderThan(before)
	if goesBack && f.mutant != followsBack {
		return false
	}
	f.b.memory.Believed = now
	return true
}

func (f *follower) bring(d *disk) error {
	p := f.own(f.read)
	if d.release != p.release {
		if err := f.flip(d, p); err != nil {
			return err
		}
	} else if d.generation != p.generation {
		if err := f.on("raise", func() error {
			done := d.done == d.generation
			err := d.activate(p.release, p.generation, false)
			if err == nil && done {
				d.done = d.generation
			}
			return err
		}); err != nil {
			return err
		}
	}
	if f.mutant == followReportsFirst {
		return errors.Join(f.report(d, p), f.runPrograms(d))
	}
	failed := f.runPrograms(d)
	return errors.Join(failed, f.report(d, p))
}

// flip catches up beside what is served, asks once more, and flips.
func (f *follower) flip(d *disk, p image) error {
	from := d.release
	if err := f.on("catch up", func() error {
		f.fetched = f.own(f.pointer).generation
		d.trees[p.release] = true
		return nil
	}); err != nil {
		return err
	}
	if f.mutant != followAsksOnce {
		if err := f.on("ask once more", func() error {
			if f.ask() {
				return errMoved
			}
			return nil
		}); err != nil {
			return err
		}
	}
	if f.drains && f.drained != p {
		if err := f.drain(d, p); err != nil {
			return err
		}
	}
	err := f.on(fmt.Sprintf("flip to %d", p.generation), func() error {
		if p.generation < f.fetched {
			f.bad = append(f.bad, fmt.Sprintf("%s flips to generation %d, and the pointer was at %d when it had fetched all",
				f.b.id, p.generation, f.fetched))
		}
		if !f.drains {
			return d.activate(p.release, p.generation, f.mutant == followsBack)
		}
		if err := d.still(flipFrom{from, f.drained == p}); err != nil && f.mutant != countsForAll {
			return err
		}
		return f.becomes(f.b, d, p)
	})
	if errors.Is(err, errNotCurrent) {
		f.drained = image{}
		return errMoved
	}
	return err
}

// drain has another process run drain.d, which goes on when the follower dies.
func (f *follower) drain(d *disk, p image) error {
	f.owed = true
	life := f.b.life
	err := f.programsStep("drain", func() error {
		switch is := d.image; {
		case f.b.life != life:
			return errLost
		case is.activate(p.release, p.generation, false) != nil:
			return push.ErrFenced
		}
		if d.from(p).drained {
			d.drain()
		}
		return nil
	})
	if err == nil {
		f.drained = p
	}
	return errors.Join(f.on("ask once more", func() error {
		if f.ask() {
			return errMoved
		}
		return nil
	}), err)
}

// programsStep is a step of another process, which waits for the lock of the programs.
func (f *follower) programsStep(what string, do func() error) (err error) {
	dead := f.a.choice(what, true, func() int {
		if f.b.programs != nil {
			return 0
		}
		return 1
	}, func(int) string { err = do(); return fmt.Sprint(err) })
	return errors.Join(dead, err)
}

// runPrograms has another process run them, which goes on when the follower dies.
func (f *follower) runPrograms(d *disk) error {
	life := f.b.life
	f.owed, f.drained = false, image{}
	for d.done != d.generation {
		if err := f.programsStep("programs", func() error {
			switch {
			case f.b.life != life:
				return errLost
			case f.failing > 0:
				f.failing--
				return errProgram
			}
			d.serveAgain()
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// report follows from the mark alone.
func (f *follower) report(d *disk, p image) error {
	if d.generation > p.generation { // a boot was faster
		return nil
	}
	r := f.toReport(d)
	if f.mutant == followReportsFirst || f.mutant == followIgnoresMark {
		r.Ready = true
	}
	if f.b.memory.Reported == r {
		return nil
	}
	err := f.on("report", func() error {
		d.tags.Ready, d.tags.Pending, d.tags.Generation, d.tags.Release = true, !r.Ready, r.Generation, r.Release
		return nil
	})
	if err == nil {
		f.s.mu.Lock()
		f.b.memory.Reported = r
		f.s.mu.Unlock()
	}
	return err
}

func (f *follower) on(what string, do func() error) error { return f.choice(what, false, do) }

func (f *follower) choice(what string, stays bool, do func() error) (err error) {
	dead := f.a.choice(what, stays, func() int { return 1 }, func(int) string {
		err = do()
		return fmt.Sprint(err)
	})
	if dead != nil {
		return dead
	}
	return err
}

// behind says what is wrong at the end of a run with a member that follows.
func (w *world) behind(b *box) string {
	d := b.mounted
	switch p := w.target(b); {
	case b.follower == nil || w.back || d == nil:
		return ""
	case d.image != p || d.done != p.generation:
		return fmt.Sprintf("%s follows, and is on %v with programs of %d in the end, not on %v", b.id, d.image, d.done, p)
	case d.tags.Generation != p.generation || d.tags.Release != p.release || d.tags.Pending:
		return fmt.Sprintf("%s follows, and its tags say %v in the end", b.id, d.tags)
	}
	return ""
}

var following = []scenario{
	{"publish and a member that follows", fine, func(w *world) {
		w.followed()
		w.server().publish("A")
		w.follow(w.serving("m"))
	}, small},
	{"publish and a member that follows, late listings", fine, func(w *world) {
		w.followed()
		w.late = true
		w.server().publish("A")
		w.follow(w.serving("m"))
	}, large},
	{"publish and a member that follows whose programs fail once", fine, func(w *world) {
		w.followed()
		w.failing = 1
		w.server().publish("A")
		w.follow(w.serving("m"))
	}, small},
	{"publish and a member that follows and its follower is killed", fine, func(w *world) {
		w.followed()
		w.failing = 1
		w.server().publish("A")
		b := w.serving("m")
		w.follow(b)
		w.event("kill", func() { w.followAgain(b) })
	}, small},
	{"publish and the pointer goes back and a member that follows", fine, func(w *world) {
		w.followed()
		w.back, w.mayFail = true, true
		w.server().publish("A")
		w.follow(w.serving("m"))
		before := w.pointer
		w.event("restore", func() { w.pointer = before })
	}, small},
	{"publish and a member that follows and resume", fine, func(w *world) {
		w.followed()
		w.server().publish("A")
		b := w.serving("m")
		w.follow(b)
		w.up(b)
	}, large},
	{"publish and a member that follows and reboot", fine, func(w *world) {
		w.followed()
		w.server().publish("A")
		b := w.serving("m")
		w.follow(b)
		w.event("reboot", func() { w.reboot(b) })
	}, large},
	{"publish and boot of a member that follows", medium, func(w *world) {
		w.followed()
		w.server().publish("A")
		b := w.add("m")
		w.follow(b)
		w.up(b)
	}, large},
	{"publish and second publish and a member that follows", coarse, func(w *world) {
		w.followed()
		s := w.server()
		s.publish("A")
		s.publish("B")
		w.follow(w.serving("m"))
	}, large},
}

// followed: nobody dials a member.
func (w *world) followed() { w.packs, w.programs, w.nobodyDials = true, true, true }
