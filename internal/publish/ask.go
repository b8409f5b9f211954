package publish

import (
	"context"
	"fmt"
	"time"
)

func (d *driver) gate(ctx context.Context) error {
	return d.ask(ctx, "gate", RolloutGate, d.rollout().Terms.Gate)
}

// green asks the watch once more: a short step may be over before it was asked at all.
func (d *driver) green(ctx context.Context) error {
	for gap := firstGap; d.watch != nil; gap = min(gap*3/2, longestGap) { // that answer may be about the time before
		if err := sleep(ctx, gap); err != nil {
			return err
		}
		if _, err := d.look(ctx); err != nil { // it takes the answer
			return err
		}
	}
	return d.ask(ctx, "watch", RolloutWatch, d.rollout().Terms.Watch)
}

// ask runs a command of the operator, and looks after the members while it runs.
func (d *driver) ask(ctx context.Context, what, event, command string) error {
	if command == "" || d.Asks == nil {
		return nil
	}
	asking, end := context.WithCancel(ctx) // not for the looks: a watch that they begin goes on after this
	defer end()
	q, doubts := d.startAsking(asking, event, command), 0
	for gap := firstGap; ; gap = min(gap*3/2, longestGap) {
		select {
		case err := <-q.answer:
			switch {
			case err != nil && ctx.Err() == nil && d.doubts(q, doubts):
				doubts++
				q = d.startAsking(asking, event, command)
				continue
			case err != nil && ctx.Err() == nil:
				return fmt.Errorf("the %s is red: %w", what, err)
			}
			return err
		case <-time.After(gap):
		}
		if _, err := d.look(ctx); err != nil {
			end()
			<-q.answer //nolint:errcheck // it was ended
			return err
		}
	}
}

// question is a command that runs.
type question struct {
	answer chan error
	slept  time.Duration // of the driver, when it was asked
}

func (d *driver) startAsking(ctx context.Context, event, command string) *question {
	q := &question{answer: make(chan error, 1), slept: d.clock.asleep()}
	about := d.about(event, d.next)
	go func() { q.answer <- d.Asks.Ask(ctx, command, about) }() // ends with ctx
	return q
}

// mostDoubts is how often in a row a red answer is not believed.
const mostDoubts = 2

// doubts: this process was stopped while the command ran, or its whole machine was. Its time may be
// up for that alone.
func (d *driver) doubts(q *question, before int) bool {
	return before < mostDoubts && d.clock.asleep() > q.slept
}

func (d *driver) red(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("the watch is red: %w", err)
}

// watchEvery is how often the watch is asked.
const watchEvery = 10 * time.Second

// lookOut asks the watch from time to time, and takes its answer.
func (d *driver) lookOut(ctx context.Context) error {
	command := d.rollout().Terms.Watch
	if command == "" || d.Asks == nil {
		return nil
	}
	if d.watch == nil && d.clock.since(d.watched) >= watchEvery {
		d.watch = d.startAsking(ctx, RolloutWatch, command)
	}
	if d.watch == nil {
		return nil
	}
	q := d.watch
	select {
	case err := <-q.answer:
		d.watch, d.watched = nil, d.clock.now()
		switch {
		case err == nil:
			d.doubted = 0
		case ctx.Err() == nil && d.doubts(q, d.doubted):
			d.doubted++
			d.watched = time.Time{}
		default:
			return d.red(ctx, err)
		}
	default:
	}
	return nil
}
