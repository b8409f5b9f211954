package volume

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/smithy-go/middleware"
)

// Crowded says whether EC2 has refused a call of ours for a request limit: many machines boot at
// once (row 16). From then on no call is made on the chance that it comes at the right moment, as a
// refused one costs another machine its turn: AttachVolume has 5 a second for the whole account.
func (v *Volumes) Crowded() bool { return v.throttled.Load() }

// note is an option of a call that finds out about it.
func (v *Volumes) note(o *ec2.Options) {
	o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
		return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("NoteThrottling", func(ctx context.Context, in middleware.FinalizeInput,
			next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
			out, metadata, err := next.HandleFinalize(ctx, in)
			if IsThrottled(err) {
				v.throttled.Store(true)
			}
			return out, metadata, err
		}), "Retry", middleware.After)
	})
}
