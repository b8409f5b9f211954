package logging

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// Outlet is a queue of lines for a reader that may not read: a journal that hangs, a terminal that
// is stopped, a pipe that nobody reads. Who puts a line in never waits. When the queue is full,
// lines are lost; how many is said as soon as the reader reads again.
type Outlet struct {
	queue chan func()
	lost  atomic.Int64
	note  func(text string) // says how much was lost, in the queue's turn
}

const (
	outletRoom = 1000 // lines; a boot says about a hundred
	// Grace is how long the end of the program waits for what is still in a queue.
	Grace = 2 * time.Second
)

// NewOutlet begins one. It ends with the program.
func NewOutlet(note func(text string)) *Outlet {
	o := &Outlet{queue: make(chan func(), outletRoom), note: note}
	go func() { // ends with the program: the other side may never take what it writes
		for say := range o.queue {
			say()
			if n := o.lost.Swap(0); n > 0 {
				o.note(fmt.Sprintf("%d lines were lost here: nobody took them", n))
			}
		}
	}()
	return o
}

// say queues; without an outlet it is done at once.
func (o *Outlet) say(do func()) {
	if o == nil {
		do()
		return
	}
	select {
	case o.queue <- do:
	default:
		o.lost.Add(1)
	}
}

// Flush waits until all that was said is taken, but not for long.
func (o *Outlet) Flush() {
	taken := make(chan struct{})
	clock := time.NewTimer(Grace)
	defer clock.Stop()
	select {
	case o.queue <- func() { close(taken) }:
	case <-clock.C:
		return
	}
	select {
	case <-taken:
	case <-clock.C:
	}
}

// PatientWriter is a stream behind an outlet: no write fails or waits.
type PatientWriter struct {
	*Outlet
	to io.Writer
}

// NewPatientWriter has lines for people go to a stream.
func NewPatientWriter(to io.Writer) PatientWriter {
	return PatientWriter{NewOutlet(func(text string) { fmt.Fprintf(to, "ebs-release-agent: %s\n", text) }), to}
}

func (w PatientWriter) Write(p []byte) (int, error) {
	text := append([]byte(nil), p...)
	w.say(func() { _, _ = w.to.Write(text) }) // there is nobody left to tell of an error
	return len(p), nil
}

// WriteWithin writes, and does not wait for the end of it any longer than that.
func WriteWithin(limit time.Duration, to io.Writer, data []byte) error {
	done := make(chan error, 1)
	go func() {
		_, err := to.Write(data)
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		return errors.New("nobody reads it")
	}
}

// TellSystemd sends a state to systemd (sd_notify(3)), which may not read it: it ends with ctx.
// Without NOTIFY_SOCKET nobody asks.
func TellSystemd(ctx context.Context, state string) error {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetWriteDeadline(time.Now()) })
	defer stop()
	_, err = conn.Write([]byte(state))
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("nobody reads %s: %w", name, ctx.Err())
	}
	return err
}

// MentionToSystemd is TellSystemd for what nobody depends on: it does not wait for long for a
// systemd that is too busy to read.
func MentionToSystemd(ctx context.Context, state string) error {
	ctx, cancel := context.WithTimeout(ctx, Mention)
	defer cancel()
	return TellSystemd(ctx, state)
}

// Mention is how long it waits.
const Mention = time.Second
