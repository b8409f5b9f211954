package volume

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"ebs-release/internal/advice"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// clockTolerance is how far a clock may be off before a signature is in danger: AWS refuses one
// that is 5 minutes off (row 48).
const clockTolerance = 4 * time.Minute

// ClockOff is how far the clock of this machine is ahead of AWS's, by the Date of the answer that
// err came with. It is 0 when there was no answer, or the clocks agree within 4 minutes.
func ClockOff(err error) time.Duration {
	var answer *smithyhttp.ResponseError
	if !errors.As(err, &answer) || answer.Response == nil || answer.Response.Response == nil {
		return 0
	}
	theirs, dateErr := http.ParseTime(answer.Response.Header.Get("Date"))
	if dateErr != nil {
		return 0
	}
	if off := time.Since(theirs).Round(time.Second); off.Abs() > clockTolerance {
		return off
	}
	return 0
}

// RetrySkewed has a call tried again that was refused because the clock of this machine is off: the
// SDK signs the next try with the time that it has learnt from the answer (aws-sdk-java #519).
func RetrySkewed(err error) aws.Ternary {
	if hasCode(err, skewedCodes...) && ClockOff(err) != 0 {
		return aws.TrueTernary
	}
	return aws.UnknownTernary
}

// SayClock is an option of an AWS client: an error that may come from a clock that is off says so.
func SayClock(stack *middleware.Stack) error {
	return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("SayClock", func(ctx context.Context, in middleware.InitializeInput,
		next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
		out, metadata, err := next.HandleInitialize(ctx, in)
		return out, metadata, withClock(err)
	}), middleware.Before)
}

// withClock names the clock behind err, where it is the likely cause.
func withClock(err error) error {
	if err == nil || RetrySkewed(err) != aws.TrueTernary {
		return err
	}
	return fmt.Errorf("%w; %w", err, ClockError(ClockOff(err)))
}

// ClockError says that the clock of this machine is off by so much, and what to do.
func ClockError(off time.Duration) error {
	way := "ahead of"
	if off < 0 {
		way = "behind"
	}
	return advice.Try(fmt.Errorf("the clock of this machine is %v %s AWS's", off.Abs().Round(time.Minute), way),
		"`timedatectl`, and chrony with the server 169.254.169.123")
}
