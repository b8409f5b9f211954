package main

import (
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/mount"
	"ebs-release/internal/snapshot"

	"github.com/spf13/cobra"
)

const freezeGuardVerb = "freeze-guard"

// freezeGuardCommand is the other side of snapshot.Holder, which starts it. It is hidden: a person
// who froze something with it would have to keep its standard input open.
func (p *program) freezeGuardCommand() *cobra.Command {
	var limit time.Duration
	cmd := &cobra.Command{
		Use:    freezeGuardVerb + " PATH",
		Short:  "Hold a file system frozen until standard input says done or ends, a signal comes, or the limit passes",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			guard := snapshot.Guard{Path: args[0], Limit: limit, Sync: mount.Sync, Freeze: mount.Freeze, Thaw: mount.Thaw}
			return exit.With(exit.Failed, guard.Run(cmd.InOrStdin(), p.stdout, snapshot.GuardSignals()))
		},
	}
	cmd.Flags().DurationVar(&limit, "limit", snapshot.DefaultLimit, "thaw after this long, whatever happens")
	return cmd
}

// holder freezes mountPoint by way of a guard, which is this very program.
func holder(mountPoint string, refuse []snapshot.Place) snapshot.Holder {
	return snapshot.Holder{
		Command: []string{"/proc/self/exe", freezeGuardVerb, "--limit", snapshot.DefaultLimit.String(), mountPoint},
		Path:    mountPoint, Limit: snapshot.DefaultLimit, Thaw: mount.Thaw, Refuse: refuse,
	}
}
