package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ebs-release/internal/exit"

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
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return p.wait(ctx, timeout)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait")
	return cmd
}

// wait goes on over a boot that failed: systemd starts it again.
func (p *program) wait(ctx context.Context, timeout time.Duration) error {
	for {
		now, err := p.observe()
		if err == nil {
			err = notReady(now)
		}
		if err == nil {
			return p.printStatus(now)
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return exit.With(exit.Unchanged, fmt.Errorf("after %s: %w", timeout, err))
		case <-time.After(waitPoll):
		}
	}
}
