package main

import (
	"context"
	"fmt"

	"ebs-release/internal/exit"
	"ebs-release/internal/publish"

	"github.com/spf13/cobra"
)

func (p *program) publishCommand() *cobra.Command {
	var message string
	cmd := &cobra.Command{
		Use:   "publish SOURCE",
		Short: "Make a folder the current release of every member and of every instance to come",
		Long: `Make a folder (or any rsync source) the current release of every member, and of every instance that launches from now on.

P0 check      lock, and try everything that could fail later
P1 ingest     take SOURCE in, as a release on the release volume
P2 snapshot   freeze the release volume, snapshot it, thaw it
P3 transfer   wait for the snapshot while the members get the release, not yet active
P4 commit     move the pointer: instances that boot from here on get the new release
P5 converge   activate on every member; list again until no member is behind
P6 report

Publishing the release that is current once more is allowed: it is a new generation of the same tree.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.release(cmd.Context(), args[0], message, func(ctx context.Context, publisher *publish.Publisher) (publish.Outcome, error) {
				return publisher.Publish(ctx, args[0])
			})
		},
	}
	cmd.Flags().StringVarP(&message, "message", "m", "", "what this release is, for the pointer")
	return cmd
}

func (p *program) convergeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "converge",
		Short: "Bring every member to the current generation",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.release(cmd.Context(), "", "", func(ctx context.Context, publisher *publish.Publisher) (publish.Outcome, error) {
				return publisher.Converge(ctx)
			})
		},
	}
}

// release publishes or converges, and reports.
func (p *program) release(ctx context.Context, source, message string, do func(context.Context, *publish.Publisher) (publish.Outcome, error)) error {
	values, err := p.settings("pointer-store", "groups")
	if err != nil {
		return err
	}
	publisher, err := newPublisher(ctx, values, p.configFile, source, message)
	if err != nil {
		return before(ctx, err)
	}
	talk := newTalker(p.stderr)
	publisher.Talk = talk.event
	outcome, err := do(ctx, publisher)
	talk.close()
	if p.output == outputJSON {
		if printErr := p.printJSON(outcome); printErr != nil {
			return printErr
		}
		return err
	}
	if outcome.Committed {
		fmt.Fprintln(p.stdout, outcome.Sentence())
	}
	return err
}

// before marks an error from before the publish began.
func before(ctx context.Context, err error) error {
	if ctx.Err() != nil || exit.Code(err) != exit.Failed {
		return err
	}
	return exit.With(exit.Unchanged, fmt.Errorf("nothing was changed: %w", err))
}
