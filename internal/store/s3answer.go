package store

import (
	"context"

	"ebs-release/internal/advice"

	"github.com/aws/smithy-go/middleware"
)

// lastAnswer is what S3 refused the latest try with; nil: that one had no answer.
type lastAnswer struct{ err error }

type lastAnswerKey struct{}

// keepAnswer has a call that ends while the SDK waits for its next try fail with what S3 said last:
// the SDK says only that it was canceled.
func keepAnswer(stack *middleware.Stack) error {
	if err := stack.Initialize.Add(wholeCall{}, middleware.Before); err != nil {
		return err
	}
	return stack.Finalize.Insert(eachTry{}, "Retry", middleware.After)
}

type wholeCall struct{}

func (wholeCall) ID() string { return "ebs-release: say the last answer" }

func (wholeCall) HandleInitialize(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (
	out middleware.InitializeOutput, metadata middleware.Metadata, err error,
) {
	last := &lastAnswer{}
	out, metadata, err = next.HandleInitialize(middleware.WithStackValue(ctx, lastAnswerKey{}, last), in)
	if err != nil && ctx.Err() != nil && last.err != nil {
		err = advice.Errorf("%w (%w)", last.err, ctx.Err())
	}
	return out, metadata, err
}

type eachTry struct{}

func (eachTry) ID() string { return "ebs-release: note the answer" }

func (eachTry) HandleFinalize(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (
	out middleware.FinalizeOutput, metadata middleware.Metadata, err error,
) {
	last, ok := middleware.GetStackValue(ctx, lastAnswerKey{}).(*lastAnswer)
	if !ok {
		return next.HandleFinalize(ctx, in)
	}
	last.err = nil
	out, metadata, err = next.HandleFinalize(ctx, in)
	if answerTo(err).status != 0 {
		last.err = err
	}
	return out, metadata, err
}
