// Package exit holds the exit codes that both programs share, and carries one inside an error from
// where it is known to main.
//
// Unknown codes mean failure.
package exit

import (
	"context"
	"errors"
)

// The exit codes, as documented in docs/reference.md.
const (
	Done         = 0   // all of it was done
	Failed       = 1   // it failed; the message says what is left
	Usage        = 2   // wrong flags, arguments or configuration
	Unchanged    = 3   // publisher: nothing was changed; agent status, wait and verify: not ready
	Conflict     = 4   // the lock is held, or the generation moved
	NotConverged = 5   // committed, but members are behind
	RolledBack   = 6   // rolled back
	NoSnapshot   = 7   // live, but the snapshot that was waited for failed, or is late
	Paused       = 8   // publisher: a rollout stands at its step, and waits for a person
	Interrupted  = 130 // SIGINT or SIGTERM
)

// Error is an error that knows the exit code it ends the program with.
type Error struct {
	Code int
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *Error) Unwrap() error { return e.Err }

// With marks err with an exit code; nil stays nil. The outermost mark wins.
func With(code int, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Code: code, Err: err}
}

// Code returns the exit code for err: 0 for nil, 130 for a cancelled context, 1 when err carries no
// code.
func Code(err error) int {
	var e *Error
	switch {
	case err == nil:
		return Done
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, context.Canceled):
		return Interrupted
	default:
		return Failed
	}
}
