package publish

import (
	"context"
	"fmt"
	"time"

	"ebs-release/internal/pointer"
	"ebs-release/internal/words"
)

// driver brings a rollout through its steps. It holds nothing that another one would need: all
// that counts is in the pointer.
type driver struct {
	*run
	clock   *awake               // of the times below, but for stepped
	stepped time.Time            // when the step began here
	moved   time.Time            // when something last went forward
	since   map[string]time.Time // from when on a member has the release to be healthy with it
	was     map[string]bool      // members that were healthy with it
	strikes map[string]int       // looks in a row in which one of those was not
	deaths  map[string]*death    // by member
	looked  time.Time            // when it was last known who is healthy
	watched time.Time            // when the watch last answered
	watch   *question            // whose answer is awaited; nil: none is
	doubted int                  // answers of the watch in a row that were not believed
}

// drive is the whole of a rollout, for each step.
func (d *driver) drive(ctx context.Context) error {
	for {
		d.tellRollout(RolloutStep, "")
		for _, part := range []func(context.Context) error{
			d.give,  // more members are given the release, some at a time, and each has to be healthy with it
			d.bake,  // they stay so for a while
			d.gate,  // the operator's command says go
			d.green, // the watch has said nothing else
		} {
			if err := part(ctx); err != nil {
				return err
			}
		}
		d.tellRollout(RolloutPassed, "")
		if d.isLast() {
			return nil
		}
		if err := d.nextStep(ctx); err != nil {
			return err
		}
	}
}

// roll is P5 of a rollout: it comes through, or goes back by itself.
func (r *run) roll(ctx context.Context) error {
	if !r.begun {
		return nil
	}
	clock := newAwake()
	now := clock.now()
	d := &driver{
		run: r, clock: clock, stepped: time.Now(), moved: now, looked: now,
		since: map[string]time.Time{}, was: map[string]bool{}, strikes: map[string]int{},
		deaths: remembered(*r.next.Rollout),
	}
	work, end := context.WithCancel(ctx)
	beats := make(chan struct{})
	go func() { clock.run(work); close(beats) }()
	err := d.drive(work)
	end()
	<-beats
	if d.watch != nil {
		<-d.watch.answer //nolint:errcheck // it was ended
	}
	r.members.mu.Lock()
	r.members.drives = false
	r.members.mu.Unlock()
	switch {
	case err == nil:
		return r.finish(ctx)
	case ctx.Err() != nil:
		return r.leave()
	case isCoded(err): // it is somebody else's now
		return err
	}
	r.tellRollout(RolloutFailed, words.OneLine(err))
	if r.next.Rollout.Terms.NoRollback {
		return r.stand(ctx, err)
	}
	return r.back(ctx, words.OneLine(err))
}

func (d *driver) rollout() pointer.Rollout { return *d.next.Rollout }

func (d *driver) isLast() bool { return d.rollout().Step == len(d.rollout().Steps)-1 }

// give raises the share to what the step wants, by as many as may be away at the same time, and
// waits until all who have the release are healthy with it.
func (d *driver) give(ctx context.Context) error {
	for gap := time.Duration(0); ; gap = min(max(gap*3/2, firstGap), longestGap) {
		if err := sleep(ctx, gap); err != nil {
			return err
		}
		s, err := d.look(ctx)
		if err != nil {
			return err
		}
		want, ro := d.wants(s), d.rollout()
		switch {
		case s.through(want) && s.in >= want && (ro.All || !d.isLast()):
			d.tellRollout(RolloutHealthy, "")
			return nil
		case s.known && s.total > 0 && (s.in < want || d.isLast() && !ro.All):
			room := want - s.in
			if at := ro.Terms.AtOnce; at > 0 {
				room = min(room, at-s.away)
			}
			if room > 0 || s.in >= want {
				if err := d.raise(ctx, s.in+max(room, 0), s); err != nil {
					return err
				}
				gap = 0
				continue
			}
		}
		if quiet := d.clock.since(d.moved); quiet > d.patience() && s.pending == 0 {
			return d.stuck(s, want)
		}
	}
}

// patience is for a member to be healthy, and for the step to go forward.
func (d *driver) patience() time.Duration {
	if limit := d.rollout().Terms.HealthTimeout; limit > 0 {
		return limit
	}
	return d.Settings.ConvergeDeadline
}

func (d *driver) stuck(s scene, want int) error {
	switch {
	case !s.known:
		return fmt.Errorf("for %v nobody could say which members are healthy", d.patience())
	case s.total == 0 || s.good == 0 && s.in == 0 && s.away == 0:
		return fmt.Errorf("for %v there was no member to give the release to, and a step without one counts for nothing", d.patience())
	case s.in < want:
		return fmt.Errorf("no progress for %v: %s cannot serve, and no more than %d may be away at once", d.patience(),
			words.Count(s.away, "member"), d.rollout().Terms.AtOnce)
	}
	return fmt.Errorf("no progress for %v: %d of %d members are healthy with the release", d.patience(), s.good, want)
}

// raise gives the release to so many members.
func (d *driver) raise(ctx context.Context, to int, s scene) error {
	var who []pointer.Instance
	d.members.mu.Lock()
	for _, m := range d.members.all {
		if m.counted {
			who = append(who, instanceOf(m.Member))
		}
	}
	d.members.mu.Unlock()
	err := d.write(ctx, func(p *pointer.Pointer) {
		ro := p.Rollout.Raised(who, to)
		ro.All = ro.All || d.isLast() && to >= s.total
		ro.Until = lease(time.Now())
		p.Rollout = &ro
	})
	d.moved = d.clock.now()
	return err
}

// mostUnseen is how much of the time between two looks counts for a bake: nobody has seen anything
// of it.
const mostUnseen = 30 * time.Second

// bake waits until all have been healthy for the time without a break. It does not end while nobody
// can say who is: look gives that up after a time.
func (d *driver) bake(ctx context.Context) error {
	s, err := d.look(ctx)
	if err != nil {
		return err
	}
	want := d.wants(s)
	gap, last := firstGap, d.clock.now()
	for start := last; ; gap = min(gap*3/2, longestGap) {
		left := d.rollout().Terms.Bake - d.clock.since(start)
		wait := gap
		switch {
		case left > 0:
			wait = min(left, gap)
		case s.known:
			return nil
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
		if s, err = d.look(ctx); err != nil {
			return err
		}
		start = start.Add(max(d.clock.since(last)-mostUnseen, 0))
		last = d.clock.now()
		if !s.holds(want) {
			d.moved = d.clock.now()
			if err := d.give(ctx); err != nil {
				return err
			}
			if s, err = d.look(ctx); err != nil {
				return err
			}
			want, start, last = d.wants(s), d.clock.now(), d.clock.now() // of a fleet that may be smaller now
		}
	}
}

func (d *driver) nextStep(ctx context.Context) error {
	err := d.write(ctx, func(p *pointer.Pointer) {
		p.Rollout.Step++
		p.Rollout.Until = lease(time.Now())
	})
	d.stepped, d.moved = time.Now(), d.clock.now()
	return err
}
