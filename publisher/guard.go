package main

import (
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/freeze"

	"github.com/spf13/cobra"
)

const freezeGuardVerb = "freeze-guard"

// freezeGuardCommand is the other side of freeze.Holder, which starts it. It is hidden: a person
// who froze something with it would have to keep its standard input open.
func (p *program) freezeGuardCommand() *cobra.Command {
	var limit time.Duration
	cmd := &cobra.Command{
		Use:    freezeGuardVerb + " PATH",
		Short:  "Hold a file system frozen until standard input says done or ends, a signal comes, or the limit passes",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return exit.With(exit.Failed, freeze.NewGuard(args[0], limit).Run(cmd.InOrStdin(), p.stdout, freeze.Signals()))
		},
	}
	cmd.Flags().DurationVar(&limit, "limit", freeze.DefaultLimit, "thaw after this long, whatever happens")
	return cmd
}

// holder freezes mountPoint by way of a guard, which is this very program.
func holder(mountPoint string, refuse []freeze.Place) freeze.Holder {
	return freeze.Holder{
		Command: []string{"/proc/self/exe", freezeGuardVerb, "--limit", freeze.DefaultLimit.String(), mountPoint},
		Path:    mountPoint, Limit: freeze.DefaultLimit, Refuse: refuse,
	}
}
