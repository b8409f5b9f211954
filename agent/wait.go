package main

import (
	"context"
	"fmt"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/status"

	smithytime "github.com/aws/smithy-go/time"
	"github.com/spf13/cobra"
)

// waitPoll is how often wait looks.
const waitPoll = 100 * time.Millisecond

func (p *program) waitCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait",
		Short: "Wait until this member is ready; exit 3 when it is not in time",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.wait(cmd.Context(), timeout)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait")
	return cmd
}

// wait goes on over a boot that failed: systemd starts it again.
func (p *program) wait(ctx context.Context, timeout time.Duration) error {
	for end := time.Now().Add(timeout); ; {
		now, err := p.observeUntil(ctx, end)
		if err == nil {
			err = notReady(now)
		}
		if err == nil {
			return p.printStatus(now)
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !time.Now().Before(end):
			return exit.With(exit.Unchanged, fmt.Errorf("after %s: %w", timeout, err))
		}
		_ = smithytime.SleepWithContext(ctx, min(waitPoll, time.Until(end))) // the end of ctx is seen above
	}
}

// leastLook is time enough for a volume that is well, on a busy machine.
const leastLook = 2 * time.Second

// observeUntil looks at least once, however near the end is.
func (p *program) observeUntil(ctx context.Context, end time.Time) (status.Status, error) {
	look, cancel := context.WithTimeout(ctx, max(time.Until(end), leastLook))
	defer cancel()
	return p.observe(look)
}
