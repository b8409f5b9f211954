package main

import (
	"context"
	"fmt"

	"ebs-release/internal/advice"
	"ebs-release/internal/boot/account"
	"ebs-release/internal/boot/disks"
	"ebs-release/internal/cli"
	"ebs-release/internal/exit"
	"ebs-release/internal/generation"
	"ebs-release/internal/pointer"
	"ebs-release/internal/status"

	"github.com/spf13/cobra"
)

// fenceReport is what `fence --output json` prints.
type fenceReport struct {
	Schema       int    `json:"schema"`
	Generation   int64  `json:"generation"` // the highest that was activated here; 0: none
	Release      string `json:"release"`    // that it was activated with
	ProgramsDone bool   `json:"programs_done"`
}

func (p *program) fenceCommand() *cobra.Command {
	var lowerTo string
	cmd := &cobra.Command{
		Use:   "fence [--lower-to GENERATION]",
		Short: "Show the fence (highest generation activated here), or lower it",
		Long: `Show the fence of the volume here: the highest generation that was ever
activated on it. Nothing below it is accepted, by a boot or by a push.

With --lower-to the fence is set to a lower generation, that of the release
which "current" leads to. This is for one case only: a wrong pointer was read
once, with a generation that no publish made, and now everything is refused as
too old. Check that the pointer is right again and that no publish is running,
and take the generation that "ebs-release status" shows for it. Afterwards run
"ebs-release-agent up" here, and "ebs-release converge" on the release server.
It needs root, or the owner of the tree.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.fence(cmd.Context(), lowerTo) },
	}
	cmd.Flags().StringVar(&lowerTo, "lower-to", "", "set the fence to this `GENERATION`")
	return cmd
}

func (p *program) fence(ctx context.Context, lowerTo string) error {
	values, err := p.settings()
	if err != nil {
		return err
	}
	point := values.Get("mount-point")
	var f disks.Fence
	if lowerTo == "" {
		f, err = disks.ReadFence(ctx, p.logger(), point)
	} else {
		f, err = p.lowerFence(ctx, point, lowerTo)
	}
	if err != nil {
		return err
	}
	report := fenceReport{Schema: status.Schema, Generation: f.Generation, Release: f.Release, ProgramsDone: f.ProgramsDone}
	if p.output == cli.JSON {
		return cli.PrintJSON(p.stdout, report)
	}
	_, err = fmt.Fprintf(p.stdout,
		"generation %d, release %s; programs of activate.d done: %v\n", report.Generation, report.Release, report.ProgramsDone)
	return err
}

func (p *program) lowerFence(ctx context.Context, point, to string) (f disks.Fence, err error) {
	n, err := generation.Parse(to)
	if err != nil {
		return f, exit.With(exit.Usage, fmt.Errorf("--lower-to: %w", err))
	}
	f, err = disks.LowerFence(ctx, p.logger(), point, n)
	if err != nil || f.Was == 0 { // there was none that could be read, or reported
		return f, err
	}
	if err := p.withdraw(ctx, f.Was); err != nil {
		return f, advice.Errorf("the fence is at %d now, but the report of the generation before stays and goes on counting: %w", n, err)
	}
	return f, nil
}

// withdraw is for a generation that no publish made.
func (p *program) withdraw(ctx context.Context, generation int64) error {
	place, err := p.reached()
	if err != nil || !pointer.InS3(place) {
		return err
	}
	return account.Withdraw(ctx, place, generation, p.logger())
}
