package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"ebs-release/internal/instance"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/middleware"
	smithytime "github.com/aws/smithy-go/time"
)

// Asking the instance metadata service, which may be late: for the region, and for the keys of the
// role.
const (
	regionTimeout = 15 * time.Second
	keysTimeout   = 15 * time.Second
	keysPause     = 500 * time.Millisecond // before another try
	slowTime      = 3 * time.Second        // a person is told then what this waits for
)

// callTimeout is for one try of a call: EC2 answers in well under a second.
const callTimeout = 15 * time.Second

// loadAWS goes through the SDK's own chain for credentials and region; a region that nothing sets
// is that of the instance. The instance metadata service gets the time that the agent gives it: the
// SDK's own half a second is too short for a machine that is busy.
func loadAWS(ctx context.Context) (aws.Config, error) {
	slow := time.AfterFunc(slowTime, func() {
		fmt.Fprintln(os.Stderr, "waiting for the instance metadata service, which knows the Region and the role of an EC2 instance")
	})
	defer slow.Stop()
	regionCtx, cancel := context.WithTimeout(ctx, regionTimeout)
	defer cancel()
	cfg, err := instance.LoadConfig(regionCtx,
		awsconfig.WithHTTPClient(instance.HTTPClient().WithTimeout(callTimeout)),
		awsconfig.WithAPIOptions([]func(*middleware.Stack) error{volume.SayClock}),
		awsconfig.WithRetryer(volume.PublisherRetryer))
	if err != nil {
		return aws.Config{}, fmt.Errorf("load the AWS configuration: %w", err)
	}
	if cfg.Region == "" {
		me, err := instance.Identify(regionCtx, instance.NewClient(cfg), slog.New(slog.DiscardHandler))
		if err != nil {
			return aws.Config{}, fmt.Errorf("no AWS region is known: set AWS_REGION, or run on EC2: %w", err)
		}
		cfg.Region = me.Region
	}
	return cfg, keys(ctx, cfg)
}

// keys makes sure that there are credentials, before anything needs them.
func keys(outer context.Context, cfg aws.Config) error {
	ctx, cancel := context.WithTimeout(outer, keysTimeout)
	defer cancel()
	for {
		_, err := cfg.Credentials.Retrieve(ctx)
		if err == nil {
			return nil
		}
		if smithytime.SleepWithContext(ctx, keysPause) != nil {
			if outer.Err() != nil {
				return outer.Err()
			}
			return fmt.Errorf("there are no AWS credentials (tried for %v): give this instance a role, or set AWS_PROFILE: %w", keysTimeout, err)
		}
	}
}
