package protocol

import (
	"errors"
	"fmt"
	"slices"

	"ebs-release/internal/boot"
	"ebs-release/internal/push"
)

// The mutants of drain.d.
const (
	flipsBlindly  = "a raise that was decided on flips whatever is current by then"
	bootFlips     = "a boot's raise flips what became current meanwhile"
	countsForAll  = "a follower's drain.d counts for what was put into service after it"
	leavesDrained = "an activation that is fenced after drain.d leaves the member out of service"
	owesNothing   = "a follower that was killed after drain.d owes nothing"
	looksAtNoMark = "a follower owes only for a drain.d that has ended"
	bootMarks     = "a boot takes a volume that is drained for one in service"
)

// draining: drain.d takes the application out of service before a flip, and the programs after it
// put it into service again. Whatever two verbs do on one member, no release goes out of service
// without its drain.d, and in the end none is out of service.
var draining = []scenario{
	{"rollout with drain.d to a member, aborted by another driver", fine, func(w *world) {
		w.drained()
		w.begun()
		w.serving("m")
		w.server().drive("A", raise("m"), onTarget)
		w.server().drive("B", abort, onTarget)
	}, small},
	{"rollout with drain.d to a member, aborted, and resume", fine, func(w *world) {
		w.drained()
		b := w.serving("m")
		w.begun("m")
		w.server().drive("A", tell(b))
		w.server().drive("B", abort)
		w.up(b)
	}, large},
	{"rollout with drain.d to a member, aborted, and reboot", fine, func(w *world) {
		w.drained()
		b := w.serving("m")
		w.begun("m")
		w.server().drive("A", tell(b))
		w.server().drive("B", abort, onTarget)
		w.event("reboot", func() { w.reboot(b) })
	}, large},
	{"rollout with drain.d to a member that follows, and is told of the time before", fine, func(w *world) {
		w.drained()
		b := w.serving("m")
		w.begun()
		w.follow(b)
		w.server().drive("A", readIt, tell(b))
		w.server().drive("B", raise("m"))
	}, large},
	{"rollout with drain.d to a member that follows, and is told that it is aborted", fine, func(w *world) {
		w.drained()
		b := w.serving("m")
		w.begun("m")
		w.follow(b)
		w.server().drive("A", abort, tell(b))
	}, large},
	{"rollout with drain.d to a member that follows, its follower is killed and the pointer goes back", fine, func(w *world) {
		w.drained()
		w.back = true
		b := w.serving("m")
		w.begun("m")
		w.follow(b)
		w.event("restore", func() {
			w.pointer.Rollout, w.pointer.Revision = nil, w.pointer.Revision-1
			w.ends = append(w.ends, "restored=0")
		})
		w.event("kill", func() { w.followAgain(b) })
	}, large},
}

func (w *world) drained() { w.rolling(); w.programs, w.drains = true, true }

// readIt has a driver go by the pointer of this moment.
func readIt(d *driver) error {
	return d.among("read", func() string { d.had = d.pointer; return fmt.Sprint(d.had.Revision, share(d.had)) })
}

// tell tells a member once, by the pointer that the driver has read.
func tell(b *box) func(*driver) error {
	return func(d *driver) error {
		if d.had.Generation == 0 {
			if err := readIt(d); err != nil {
				return err
			}
		}
		s, to := &session{desk: d.desk, b: b}, push.Desired{Pointer: d.had.For(b.instance())}
		if _, err := s.Stage(d.a.ctx, to); err == nil {
			_ = s.Activate(d.a.ctx, to)
		}
		return nil
	}
}

// flipFrom is what a flip was decided on: see release.From.
type flipFrom struct {
	release string
	drained bool
}

var (
	errNotCurrent = errors.New("another release has become current meanwhile")
	errRefused    = errors.New("the pointer is refused")
)

func (d *disk) from(to image) flipFrom { return flipFrom{d.release, d.release != to.release} }

// still is an error when that is not so any more.
func (d *disk) still(from flipFrom) error {
	if d.release != from.release || from.drained && !d.drained {
		return errNotCurrent
	}
	return nil
}

// becomes makes a release current, and sees whether that was in service.
func (w *world) becomes(b *box, d *disk, to image) error {
	before := d.release
	err := d.activate(to.release, to.generation, w.mutant == noFence)
	if err == nil && before != to.release && b.open && b.mounted == d && !d.out {
		w.bad = append(w.bad, fmt.Sprintf("release %s goes out of service on %s without its drain.d", before, b.id))
	}
	return err
}

func (d *disk) drain() { d.out, d.drained, d.done = true, true, 0 }

// serveAgain is what programs do that succeed.
func (d *disk) serveAgain() { d.out, d.drained, d.done = false, false, d.generation }

// raise is that of a boot: see release.Volume.Raise.
func (w *world) raise(b *box, d *disk, to image) error {
	if d.release != to.release && w.mutant != flipsBlindly && w.mutant != bootFlips {
		return errNotCurrent
	}
	done := d.done == d.generation
	err := w.becomes(b, d, to)
	if err == nil && done {
		d.done = d.generation
	}
	return err
}

// checkDraining is Check of what is mounted in two steps, as package boot/tree takes it.
func (c content) checkDraining(want boot.Wanted) error {
	for {
		var err error
		if dead := c.a.step("look at what is mounted", func() string { err = c.compare(want); return fmt.Sprint(err) }); dead != nil || err != nil {
			return errors.Join(dead, err)
		}
		dead := c.a.step("raise", func() string {
			if c.d.generation != want.Generation {
				err = c.raise(c.b, c.d, image{want.Generation, want.Release})
			}
			return fmt.Sprint(err)
		})
		if dead != nil || err == nil {
			return dead
		}
	}
}

// verb is one process on a member that activates: the order of package activation, in memory.
// TestActivationOrder holds it to the real one.
type verb struct {
	*world
	b    *box
	d    *disk
	a    *actor
	to   image
	life int
	over bool
	err  error
}

// activates starts one; the publisher may die meanwhile.
func (w *world) activates(b *box, to image) *verb {
	v := &verb{world: w, b: b, d: b.mounted, to: to, life: b.life}
	b.verbs, b.begun = append(b.verbs, v), b.begun+1
	known := make(chan struct{})
	v.a = w.s.spawn(fmt.Sprintf("activation %d on %s", b.begun, b.id), false, func(*actor) {
		<-known
		err := errNotCurrent
		for errors.Is(err, errNotCurrent) {
			err = v.once()
		}
		w.s.mu.Lock()
		defer w.s.mu.Unlock()
		v.over, v.err = true, err
		b.verbs = slices.DeleteFunc(b.verbs, func(o *verb) bool { return o == v })
	})
	close(known)
	return v
}

func (v *verb) on(what string, do func() error) error { return v.when(what, nil, do) }

// locked waits for the lock of the programs. do keeps it by b.programs.
func (v *verb) locked(what string, do func() error) error {
	return v.when(what, func() bool { return v.b.programs == nil }, do)
}

func (v *verb) when(what string, ok func() bool, do func() error) (err error) {
	ways := func() int {
		if ok == nil || ok() {
			return 1
		}
		return 0
	}
	dead := v.a.choice(what, false, ways, func(int) string { err = do(); return fmt.Sprint(err) })
	return errors.Join(dead, err)
}

func (v *verb) once() error {
	var from flipFrom
	if err := v.on("decide", func() error { from = v.d.from(v.to); return nil }); err != nil {
		return err
	}
	if !from.drained {
		if err := v.on("flip", func() error { return v.flip(from) }); err != nil {
			return err
		}
		return v.locked("programs", func() error { return v.complete(v.to) })
	}
	if err := v.locked("drain", func() error {
		if is := v.d.image; is.activate(v.to.release, v.to.generation, false) != nil {
			return push.ErrFenced
		}
		if from = v.d.from(v.to); from.drained {
			v.d.drain()
		}
		v.b.programs = v
		return nil
	}); err != nil {
		return err
	}
	err := v.on("flip", func() error { return v.flip(from) })
	what := "programs"
	if err != nil {
		what = "programs of what is current"
	}
	failed := v.on(what, func() error {
		v.b.programs = nil
		switch {
		case err == nil:
			return v.complete(v.to)
		case v.mutant == leavesDrained:
			return nil
		}
		return v.complete(v.d.image)
	})
	if err == nil {
		err = failed
	}
	return err
}

func (v *verb) flip(from flipFrom) error {
	if from.release == v.to.release {
		if v.d.release != from.release && v.mutant != flipsBlindly {
			return errNotCurrent
		}
		done := v.d.done == v.d.generation
		err := v.becomes(v.b, v.d, v.to)
		if err == nil && done {
			v.d.done = v.d.generation
		}
		return err
	}
	if err := v.d.still(from); err != nil {
		return err
	}
	return v.becomes(v.b, v.d, v.to)
}

func (v *verb) complete(of image) error {
	switch {
	case v.d.image != of:
		return push.ErrFenced
	case v.d.done == v.d.generation:
		return nil
	case v.failing > 0:
		v.failing--
		return &push.HookError{Name: "50-reload", Code: 1}
	}
	v.d.serveAgain()
	return nil
}

// activateDraining is Activate where there is a drain.d: the publisher waits for a process there.
func (s *session) activateDraining(to push.Desired) error {
	var v *verb
	if err := s.on("activate", false, func() error {
		if err := s.look(); err != nil {
			return err
		}
		if err := s.isOwn(to); err != nil {
			return err
		}
		if s.b.mounted == nil || !s.b.mounted.trees[to.Release] {
			return errEmpty
		}
		v = s.activates(s.b, image{to.Generation, to.Release})
		return nil
	}); err != nil {
		return err
	}
	var err error
	dead := s.a.choice("on "+s.b.id+": activated", false, func() int {
		if v.over || v.life != s.b.life {
			return 1
		}
		return 0
	}, func(int) string {
		if err = v.err; !v.over {
			err = errLost
		}
		return fmt.Sprint(err)
	})
	return errors.Join(dead, err)
}
