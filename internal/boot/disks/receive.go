package disks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"syscall"

	"ebs-release/internal/activation"
	"ebs-release/internal/advice"
	"ebs-release/internal/boot/source"
	"ebs-release/internal/pointer"
	"ebs-release/internal/push/wire"
	"ebs-release/internal/receive"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
	"ebs-release/internal/store"
	"ebs-release/internal/words"
)

// receiving is what a child needs to know of a request of the publisher.
type receiving struct {
	Request  wire.Request
	Prune    bool // only what comes after an activation
	Programs activation.Programs
	Keep     int

	Store source.Source    // whose packs it has
	Me    pointer.Instance // while a rollout is open
	// What kept the two above from being known: errors of whoever needs them.
	StoreTrouble, MeTrouble string
}

// outlives says that a request goes on when whoever asked for it is gone, or waits no longer:
// programs run, and what they have begun has to come to its end.
func (r diskRequest) outlives() bool {
	return r.Do == doReceive && r.Receive.Request.Do == wire.Activate && !r.Receive.Prune
}

// Receive is receive.Worker: it has a child touch the volume for each request, and can say so
// when that does not come back.
type Receive struct {
	Ready    func(context.Context) (status.Status, error)    // the member whose boot is over
	Reached  func() (string, error)                          // the place of the store; also gives this process the environment of it
	Who      func(context.Context) (pointer.Instance, error) // while a rollout is open
	Programs activation.Programs
	Keep     int
	Log      *slog.Logger
}

// Do is of receive.Worker.
func (w Receive) Do(ctx context.Context, q wire.Request) (any, error) {
	r := receiving{Request: q, Programs: w.Programs, Keep: w.Keep}
	if q.Do == wire.Stage {
		var err error
		if r.Store.Pointer, err = w.Reached(); err != nil {
			r.StoreTrouble = words.OneLine(advice.Try(fmt.Errorf("find the store of this member: %w", err), "ebs-release-agent up"))
		}
	}
	if q.Do == wire.Activate && q.Pointer != "" {
		_, err := w.Reached() // the metadata service may be where the boot was told
		if err == nil {
			r.Me, err = w.Who(ctx)
		}
		if err != nil {
			r.MeTrouble = words.OneLine(err)
		}
	}
	a, err := w.work(ctx, r)
	if err != nil {
		return nil, err
	}
	if a.Failure != nil {
		return nil, receive.Failed{Failure: *a.Failure}
	}
	return a.Received, nil
}

// Prune is of receive.Worker.
func (w Receive) Prune(ctx context.Context, q wire.Request) error {
	_, err := w.work(ctx, receiving{Request: q, Prune: true, Keep: w.Keep})
	return err
}

// work has a child do it.
func (w Receive) work(ctx context.Context, r receiving) (diskAnswer, error) {
	now, err := w.Ready(ctx)
	if err != nil {
		return diskAnswer{}, err
	}
	a, err := askToEnd(ctx, w.Log, diskRequest{Do: doReceive, Point: now.MountPoint, Receive: r})
	if errors.Is(err, context.DeadlineExceeded) {
		err = advice.Try(fmt.Errorf("the volume does not answer: %w", err), "aws ec2 describe-volume-status --volume-ids %s", now.VolumeID)
	}
	return a, err
}

// askToEnd is askChild for what may have to come to its end without anybody who waits for it.
func askToEnd(ctx context.Context, log *slog.Logger, r diskRequest) (diskAnswer, error) {
	w, err := startWorker(log)
	if err != nil {
		return diskAnswer{}, err
	}
	stop := context.AfterFunc(ctx, func() {
		switch {
		case !r.outlives(): // it ends with its input
			_ = w.requests.Close()
		case errors.Is(ctx.Err(), context.Canceled): // a signal
			_ = w.process.Signal(syscall.SIGTERM)
		}
	})
	defer stop()
	a, err := w.do(ctx, r)
	if r.outlives() && errors.Is(err, context.DeadlineExceeded) {
		return a, err
	}
	return a, errors.Join(err, onlyAlone(err, w.close(ctx)))
}

// receive does it, in the child.
func (w *diskWork) receive(ctx context.Context, point string, r receiving) (a diskAnswer, err error) {
	to := receive.Receiver{
		Keep: r.Keep, Programs: r.Programs,
		Ready: func() (*release.Volume, error) { return OpenWritable(point) },
		Who: func(context.Context) (pointer.Instance, error) {
			if r.MeTrouble != "" {
				return pointer.Instance{}, advice.Parse(r.MeTrouble)
			}
			return r.Me, nil
		},
		Packs: r.Store.Packs(w.log),
	}
	if r.StoreTrouble != "" {
		to.Packs = func(context.Context) (store.Reader, error) { return nil, advice.Parse(r.StoreTrouble) }
	}
	if r.Prune {
		return a, to.Prune(ctx, r.Request)
	}
	answer, err := to.Do(ctx, r.Request)
	if err != nil {
		failure := receive.Failure(err)
		return diskAnswer{Failure: &failure}, nil
	}
	a.Received, err = json.Marshal(answer)
	return a, err
}
