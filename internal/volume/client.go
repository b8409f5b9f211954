package volume

import (
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// A call that is not answered for so long is given up and made again. EC2 answers in well under a
// second.
const callTimeout = 10 * time.Second

// NewEC2 returns an EC2 client whose calls are retried until their context ends: on throttling, on
// 5xx, on a broken or hung connection, and while the credentials of the role are not there yet
// (eks-ami #1970), and on a signature that a clock that is off made worthless (row 48). Pauses have
// full jitter and grow to 5 s, so that a hundred instances that boot at once spread out. The SDK's
// own budget of 3 tries and 500 retry tokens ends too early (docs/failures.md, row 20).
func NewEC2(cfg aws.Config) *ec2.Client {
	return ec2.NewFromConfig(cfg, func(o *ec2.Options) {
		o.APIOptions = append(o.APIOptions, keepLastError, SayClock)
		o.HTTPClient = awshttp.NewBuildableClient().WithTimeout(callTimeout)
		o.Retryer = retry.NewStandard(func(s *retry.StandardOptions) {
			s.MaxAttempts = 1000 // the context ends it
			s.MaxBackoff = 5 * time.Second
			s.RateLimiter = ratelimit.None
			s.Retryables = append([]retry.IsErrorRetryable{
				retry.IsErrorRetryableFunc(credentialsLate), retry.IsErrorRetryableFunc(RetrySkewed),
			}, s.Retryables...)
		})
	})
}

func credentialsLate(err error) aws.Ternary {
	if strings.Contains(err.Error(), "failed to refresh cached credentials") {
		return aws.TrueTernary
	}
	return aws.UnknownTernary
}
