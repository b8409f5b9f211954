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
	answer := make(chan error, 1)
	about := d.about(event, d.next)
	go func() { answer <- d.Asks.Ask(asking, command, about) }()
	for gap := firstGap; ; gap = min(gap*3/2, longestGap) {
		select {
		case err := <-answer:
			if err != nil && ctx.Err() == nil {
				return fmt.Errorf("the %s is red: %w", what, err)
			}
			return err
		case <-time.After(gap):
		}
		if _, err := d.look(ctx); err != nil {
			end()
			<-answer //nolint:errcheck // it was ended
			return err
		}
	}
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
	if d.watch == nil && time.Since(d.watched) >= watchEvery {
		d.watch = make(chan error, 1)
		about := d.about(RolloutWatch, d.next)
		go func(answer chan<- error) { answer <- d.Asks.Ask(ctx, command, about) }(d.watch) // ends with ctx
	}
	select {
	case err := <-d.watch: // never, where it is nil
		d.watch, d.watched = nil, time.Now()
		if err != nil {
			return d.red(ctx, err)
		}
	default:
	}
	return nil
}
