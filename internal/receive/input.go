package receive

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"ebs-release/internal/push/wire"
)

// requests is what comes from the publisher. A read of a pipe cannot be given up, so a goroutine
// reads; it ends with the input, at the latest with the process.
type requests struct {
	lines chan wire.Request
	ended context.Context // with the input: its cause says why
}

var errSilent = errors.New("the publisher says nothing any more")

// listen begins to read. stop is to be called in the end.
func listen(ctx context.Context, from io.Reader) (heard *requests, stop func()) {
	ended, end := context.WithCancelCause(ctx)
	heard = &requests{lines: make(chan wire.Request), ended: ended}
	go func() { end(heard.read(bufio.NewReaderSize(from, 64<<10))) }()
	return heard, func() { end(nil) }
}

func (r *requests) read(from *bufio.Reader) error {
	for {
		line, err := wire.Read(from)
		var q wire.Request
		if err == nil {
			err = json.Unmarshal(line, &q)
		}
		if err != nil {
			return err
		}
		select {
		case r.lines <- q:
		case <-r.ended.Done():
			return nil
		}
	}
}

// next waits for a request, for as long as limit. io.EOF: there is none any more.
func (r *requests) next(limit time.Duration) (wire.Request, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case q := <-r.lines:
		return q, nil
	case <-r.ended.Done():
		return wire.Request{}, context.Cause(r.ended)
	case <-timer.C:
		return wire.Request{}, errSilent
	}
}

// whileThere is ctx until the publisher is gone.
func (r *requests) whileThere(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(r.ended, func() { cancel(errors.New("the publisher is gone")) })
	return ctx, func() { stop(); cancel(nil) }
}
