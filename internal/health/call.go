package health

import (
	"context"
	"errors"
	"fmt"
	"io"

	"ebs-release/internal/advice"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// answerLimit: a target group has some thousand targets, a page of groups some thousand instances,
// each less than 1 KiB.
const answerLimit = 16 << 20

// tries: a look is repeated by its caller anyway, who wants to hear soon that nobody answers.
const tries = 3

var errTooLong = fmt.Errorf("the answer is longer than %d MiB", answerLimit>>20)

func boundAutoScaling(o *autoscaling.Options) {
	o.APIOptions, o.RetryMaxAttempts = append(o.APIOptions, boundAnswer), tries
}

func boundBalancing(o *elb.Options) {
	o.APIOptions, o.RetryMaxAttempts = append(o.APIOptions, boundAnswer), tries
}

// boundAnswer keeps the SDK from reading an answer without end.
func boundAnswer(stack *middleware.Stack) error {
	return stack.Deserialize.Add(middleware.DeserializeMiddlewareFunc("BoundAnswer", func(
		ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler,
	) (middleware.DeserializeOutput, middleware.Metadata, error) {
		out, metadata, err := next.HandleDeserialize(ctx, in)
		if r, ok := out.RawResponse.(*smithyhttp.Response); ok && r.Body != nil {
			r.Body = &bounded{r.Body, answerLimit}
		}
		return out, metadata, err
	}), middleware.After)
}

type bounded struct {
	io.ReadCloser
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLong
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// refused says what AWS answered to a question, and what to do.
func refused(action, question string, err error) error {
	switch {
	case volume.IsDenied(err):
		return advice.Errorf("%s: %w", question, volume.Denied(err, action))
	case retry.ThrottleErrorCode{Codes: retry.DefaultThrottleErrorCodes}.IsErrorThrottle(err) == aws.TrueTernary:
		return advice.Try(fmt.Errorf("%s: AWS throttles this account: %w", question, err), "again later; who else calls %s?", action)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: no answer within %v: %w", question, lookTime, err)
	}
	return fmt.Errorf("%s: %w", question, err)
}
