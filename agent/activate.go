package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/hook"
	"ebs-release/internal/release"
	"ebs-release/internal/status"

	"github.com/spf13/cobra"
)

// activated is the answer of `activate`, one line of JSON.
type activated struct {
	Schema     int    `json:"schema"`
	State      string `json:"state"`
	Generation int64  `json:"generation"`
	Release    string `json:"release"`
	// Hook is a program of activate.d that failed. The release is active all the same.
	Hook *hook.Failure `json:"hook,omitempty"`
}

func (p *program) activateCommand() *cobra.Command {
	var id, digest string
	var generation int64
	var keep int
	var hooks hook.Dir
	cmd := &cobra.Command{
		Use:   "activate --release ID --digest HEX --generation N",
		Short: "Make a release that was staged the current one",
		Long: `Make a release that was staged the current one, and remove the oldest. Once more the same changes nothing. The publisher calls this over ssh, as the
user who owns the tree. Exit 3: the boot of this member is not over. Exit 4: a newer generation is active.

Then it runs the programs in /etc/ebs-release/activate.d, as the same user, in the order of their names, for example to reload a service. They get
EBS_RELEASE_GENERATION, EBS_RELEASE_ID, EBS_RELEASE_PATH and EBS_RELEASE_PREVIOUS. When one fails, the release is active all the same and the exit code
is 0; the answer and the publisher name it. An answer that gets lost makes the publisher activate again: they may run twice.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tree, err := p.writableTree()
			if err != nil {
				return err
			}
			previous, err := tree.Current()
			if err != nil {
				return err
			}
			if err := tree.Activate(cmd.Context(), id, digest, generation); err != nil {
				if errors.Is(err, release.ErrFenced) {
					return exit.With(exit.Conflict, err)
				}
				return err
			}
			if gone, err := tree.Prune(cmd.Context(), keep); err != nil {
				p.logger().Warn("cannot remove old releases", "removed", gone, "error", err) // the release is active all the same
			}
			hooks.Env = []string{
				fmt.Sprintf("EBS_RELEASE_GENERATION=%d", generation), "EBS_RELEASE_ID=" + id,
				"EBS_RELEASE_PATH=" + tree.Root + "/current", "EBS_RELEASE_PREVIOUS=" + previous,
			}
			err = hooks.Run(cmd.Context())
			failed, ok := errors.AsType[*hook.Failure](err)
			if err != nil && !ok {
				return fmt.Errorf("run %s: %w", hooks.Path, err)
			}
			return p.printLine(activated{status.Schema, "active", generation, id, failed})
		},
	}
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if err := checkRelease(id, digest, false); err != nil {
			return err
		}
		if generation < 1 || keep < 1 {
			return exit.With(exit.Usage, errors.New("want --generation and --keep of 1 or more"))
		}
		return nil
	}
	cmd.Flags().StringVar(&id, "release", "", "id of the release")
	cmd.Flags().StringVar(&digest, "digest", "", "its digest, 64 hex digits")
	cmd.Flags().Int64Var(&generation, "generation", 0, "generation of the pointer that names it")
	cmd.Flags().StringVar(&hooks.Path, "hooks", "/etc/ebs-release/activate.d", "folder with programs to run after it")
	cmd.Flags().DurationVar(&hooks.Timeout, "hook-timeout", time.Minute, "for each of them")
	cmd.Flags().IntVar(&keep, "keep", 3, "how many releases to keep on the volume")
	return cmd
}

// printLine writes an answer for the publisher.
func (p *program) printLine(answer any) error {
	line, err := json.Marshal(answer)
	if err == nil {
		_, err = fmt.Fprintf(p.stdout, "%s\n", line)
	}
	if err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}
