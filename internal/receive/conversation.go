package receive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"ebs-release/internal/activation"
	"ebs-release/internal/exit"
	"ebs-release/internal/push/wire"
	"ebs-release/internal/words"
)

// betweenRequests is how long the publisher may say nothing: it waits for other members, and for a
// snapshot. A request for which it has set no time gets as long.
const betweenRequests = 2 * time.Hour

// pruneLimit is for what nobody waits for.
const pruneLimit = 10 * time.Minute

// Worker does what the publisher asks for, within the time of ctx.
type Worker interface {
	// Do returns what is to be answered: one of the answers of package wire.
	Do(ctx context.Context, q wire.Request) (answer any, err error)
	// Prune removes the releases that are not wanted any more after an activation.
	Prune(ctx context.Context, q wire.Request) error
}

// Conversation serves one connection.
type Conversation struct {
	Worker  Worker
	Version string // of the agent
	Log     *slog.Logger
}

// Run answers requests until the end of in.
func (c Conversation) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	heard, stop := listen(ctx, in)
	defer stop()
	if err := wire.Write(out, wire.Hello{Schema: wire.Schema, State: wire.StateListening, Agent: c.Version}); err != nil {
		return err
	}
	for {
		request, err := heard.next(betweenRequests)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read a request: %w", err)
		}
		answer, err := c.serve(ctx, request, heard)
		if err != nil {
			answer = Failure(err)
		}
		if err := wire.Write(out, answer); err != nil {
			return fmt.Errorf("write the answer: %w", err)
		}
		if err == nil && request.Do == wire.Activate {
			c.prune(ctx, request) // now that nobody waits for it
		}
	}
}

func (c Conversation) serve(ctx context.Context, q wire.Request, heard *requests) (answer any, err error) {
	if q.Do == wire.Stage {
		var stop func()
		ctx, stop = heard.whileThere(ctx) // then nobody waits for the release any more
		defer stop()
	}
	limit := betweenRequests
	if q.Within > 0 {
		limit = min(limit, time.Duration(q.Within)*time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return c.Worker.Do(ctx, q)
}

// prune: the release is active all the same when it fails.
func (c Conversation) prune(ctx context.Context, q wire.Request) {
	ctx, cancel := context.WithTimeout(ctx, pruneLimit)
	defer cancel()
	if err := c.Worker.Prune(ctx, q); err != nil {
		c.Log.Warn("cannot remove old releases", "error", err)
	}
}

// Failed is the error of a Worker whose Failure is known.
type Failed struct{ Failure wire.Failure }

func (f Failed) Error() string { return f.Failure.Error }

// Failure is what the publisher is told of an error.
func Failure(err error) wire.Failure {
	if known, ok := errors.AsType[Failed](err); ok {
		return known.Failure
	}
	return wire.Failure{
		Schema: wire.Schema, Error: words.OneLine(err), Code: exit.Code(err), Refused: errors.Is(err, activation.ErrRefused),
	}
}
