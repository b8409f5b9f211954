package volume

import (
	"context"
	"fmt"

	"github.com/aws/smithy-go/middleware"
)

// lastErrorKey is where a call keeps the error of its last try.
type lastErrorKey struct{}

// keepLastError lets a call whose time is up say why it was still being tried: the SDK's retryer
// says "request canceled" and no more.
func keepLastError(stack *middleware.Stack) error {
	err := stack.Initialize.Add(middleware.InitializeMiddlewareFunc("KeepLastError", func(ctx context.Context, in middleware.InitializeInput,
		next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
		var last error
		out, metadata, err := next.HandleInitialize(context.WithValue(ctx, lastErrorKey{}, &last), in)
		if err != nil && ctx.Err() != nil && last != nil {
			err = fmt.Errorf("%w, before that: %w", ctx.Err(), last)
		}
		return out, metadata, err
	}), middleware.Before)
	if err != nil {
		return err
	}
	return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("NoteLastError", func(ctx context.Context, in middleware.FinalizeInput,
		next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
		out, metadata, err := next.HandleFinalize(ctx, in)
		if last, ok := ctx.Value(lastErrorKey{}).(*error); ok && err != nil && ctx.Err() == nil {
			*last = err
		}
		return out, metadata, err
	}), "Retry", middleware.After)
}
