package main

import (
	"context"
	"fmt"
	"time"

	"ebs-release/internal/fleet"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/smithy-go/logging"
)

// regionTimeout is for asking the instance metadata service for the region.
const regionTimeout = 15 * time.Second

// EC2 answers in well under a second. A call that is throttled, fails with 5xx or hangs is made again, with jitter; the SDK's 3 tries are few for
// an account that is busy.
const (
	callTimeout = 15 * time.Second
	callTries   = 8
	callPause   = 5 * time.Second // at most
)

// loadAWS goes through the SDK's own chain for credentials and region; a region that nothing sets comes from the instance metadata service.
func loadAWS(ctx context.Context) (aws.Config, error) {
	ctx, cancel := context.WithTimeout(ctx, regionTimeout)
	defer cancel()
	cfg, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithEC2IMDSRegion(),
		awsconfig.WithLogger(logging.Nop{}), // its warnings on stderr help nobody here; errors come back as such
		awsconfig.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(callTimeout)),
		awsconfig.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts, o.MaxBackoff = callTries, callPause })
		}))
	if err != nil {
		return aws.Config{}, fmt.Errorf("load the AWS configuration: %w", err)
	}
	if cfg.Region == "" {
		return aws.Config{}, fmt.Errorf("no AWS region is known: set AWS_REGION, or run on EC2")
	}
	return cfg, nil
}

// members is the fleet of some groups.
type members struct {
	asg    *autoscaling.Client
	ec2    *ec2.Client
	groups []string
}

func newMembers(cfg aws.Config, groups []string) members {
	return members{autoscaling.NewFromConfig(cfg), ec2.NewFromConfig(cfg), groups}
}

// List is publish.Fleet's.
func (m members) List(ctx context.Context) ([]fleet.Member, error) {
	return fleet.List(ctx, m.asg, m.ec2, m.groups)
}

// Report is publish.Fleet's.
func (m members) Report(ctx context.Context, volumeIDs []string, generation int64, release string) error {
	return fleet.Report(ctx, m.ec2, volumeIDs, generation, release)
}
