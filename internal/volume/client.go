package volume

import (
	"math/rand/v2"
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
// (eks-ami #1970), and on a signature that a clock that is off made worthless (row 48). The SDK's
// own budget of 3 tries and 500 retry tokens ends too early (docs/failures.md, row 20).
func NewEC2(cfg aws.Config) *ec2.Client {
	return ec2.NewFromConfig(cfg, func(o *ec2.Options) {
		o.APIOptions = append(o.APIOptions, keepLastError, SayClock)
		if c, ok := o.HTTPClient.(*awshttp.BuildableClient); ok {
			o.HTTPClient = c.WithTimeout(callTimeout)
		}
		o.Retryer = MemberRetryer()
	})
}

// MemberRetryer is how a member calls AWS: again and again, until the context ends.
func MemberRetryer() aws.Retryer {
	return retry.NewStandard(func(s *retry.StandardOptions) {
		s.MaxAttempts = 1000 // the context ends it
		s.Backoff = Pauses{Trouble: 5 * time.Second, Throttled: 10 * time.Second}
		s.RateLimiter = ratelimit.None
		s.Retryables = append([]retry.IsErrorRetryable{
			retry.IsErrorRetryableFunc(credentialsLate), retry.IsErrorRetryableFunc(RetrySkewed),
		}, s.Retryables...)
	})
}

// PublisherRetryer is how a publisher calls AWS. EC2 answers in well under a second. A call that
// fails with 5xx or hangs is made again, with jitter; the SDK's 3 tries are few for an account that
// is busy. One that is throttled is asked again for about a minute, and more often than members
// ask: a single one among hundreds that boot at once must get its turn, too (row 16).
func PublisherRetryer() aws.Retryer {
	return retry.NewStandard(func(s *retry.StandardOptions) {
		s.MaxAttempts = 60
		s.Backoff = Pauses{Trouble: 5 * time.Second, Tries: 8, Throttled: 2 * time.Second}
		s.RateLimiter = ratelimit.None
		s.Retryables = append([]retry.IsErrorRetryable{retry.IsErrorRetryableFunc(RetrySkewed)}, s.Retryables...)
	})
}

// Pauses are those before a call is made again: a random time up to a bound, which is 2 s at first
// and doubles up to one of these. The SDK's own has no jitter once its bound is reached, so that
// those who came together go on coming together.
type Pauses struct {
	Trouble time.Duration // 5xx, a broken or hung connection
	Tries   int           // of a call with such trouble; 0: as many as the retryer has
	// Throttled is longer: whoever asks less leaves more to the others, and with many who wait the
	// request bucket is empty all the same.
	Throttled time.Duration
}

// BackoffDelay implements retry.BackoffDelayer. The first try has the number 1.
func (p Pauses) BackoffDelay(try int, err error) (time.Duration, error) {
	most := p.Trouble
	switch {
	case IsThrottled(err):
		most = p.Throttled
	case try == p.Tries:
		return 0, err
	}
	return rand.N(min(most, time.Second<<min(try, 10))), nil
}

func credentialsLate(err error) aws.Ternary {
	if strings.Contains(err.Error(), "failed to refresh cached credentials") {
		return aws.TrueTernary
	}
	return aws.UnknownTernary
}
