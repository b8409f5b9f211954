package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"ebs-release/internal/exit"
	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"

	"github.com/spf13/cobra"
)

const group = "web"

func upCommand(opts *lab.Options) *cobra.Command {
	var latency string
	var maxMembers int32
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a lab, say how to reach it, and keep it until Ctrl-C",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch latency {
			case "zero":
			case "realistic":
				opts.Latency = cloud.Realistic()
			default:
				return exit.With(exit.Usage, fmt.Errorf("--latency is %q, want zero or realistic", latency))
			}
			opts.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
			return up(cmd.Context(), *opts, maxMembers, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&latency, "latency", "realistic", "how long EC2 takes: zero or realistic")
	cmd.Flags().Int32Var(&maxMembers, "max", 10, "how far the group may grow")
	return cmd
}

func up(ctx context.Context, opts lab.Options, maxMembers int32, out io.Writer) (err error) {
	opts.Groups = []string{group}
	if opts.ServerBinds, err = lab.MachineFiles(); err != nil {
		return err
	}
	l, err := lab.Start(ctx, opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := l.Group(group, 0, maxMembers); err != nil {
		return err
	}
	fmt.Fprintf(out, `# Point the AWS CLI at the lab:
export %s
# Then, for instance:
#   on the release server: ebs-release init, then ebs-release publish FOLDER
#   aws autoscaling set-desired-capacity --auto-scaling-group-name %s --desired-capacity 3
#   ebs-release status
# Consoles: %s/console. The lab ends with Ctrl-C. Machines, and how to get a shell in them:
`, strings.Join(l.Environ(), " "), group, l.Dir())
	if err := announce(ctx, l, out); !errors.Is(err, context.Canceled) {
		return err
	}
	fmt.Fprintln(out, "# going down")
	return nil
}

// announce prints a line for each boot, until ctx ends.
func announce(ctx context.Context, l *lab.Lab, out io.Writer) error {
	boots := map[string]int{}
	return l.WaitHosts(ctx, func(hosts []*host.Host) bool {
		for _, h := range hosts {
			if n := h.Boots(); n > boots[h.ID] {
				boots[h.ID] = n
				name := "member"
				if h.ID == l.ReleaseServerID() {
					name = "release server"
				}
				fmt.Fprintf(out, "# %s %s (%s), boot %d:\n%s\n", h.ID, h.Address, name, n, h.EnterCommand())
			}
		}
		return false
	})
}
