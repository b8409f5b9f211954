package receive

import (
	"context"
	"errors"
	"io"
	"time"
)

// input is stdin with a limit on how long a read may wait. A read of a pipe cannot be given up, so
// another goroutine reads; it ends with the input, at the latest with the process.
type input struct {
	*io.PipeReader
	end   func(cause error)
	limit time.Duration
}

var errSilent = errors.New("the publisher says nothing any more")

// listen is for one reader, which calls stop in the end.
func listen(ctx context.Context, from io.Reader) (in *input, stop func()) {
	r, w := io.Pipe()
	in = &input{PipeReader: r, end: func(cause error) { _ = w.CloseWithError(cause) }}
	go func() {
		_, err := io.Copy(w, from)
		in.end(err)
	}()
	cancelled := context.AfterFunc(ctx, func() { in.end(context.Cause(ctx)) })
	return in, func() {
		cancelled()
		_ = r.Close()
	}
}

// patience is how long each read may take from now on.
func (in *input) patience(limit time.Duration) { in.limit = limit }

func (in *input) Read(p []byte) (int, error) {
	timer := time.AfterFunc(in.limit, func() { in.end(errSilent) })
	defer timer.Stop()
	return in.PipeReader.Read(p)
}
