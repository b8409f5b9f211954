package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"ebs-release/internal/activation"
	"ebs-release/internal/boot/disks"
	"ebs-release/internal/cli"
	"ebs-release/internal/exit"
	"ebs-release/internal/generation"
	"ebs-release/internal/manifest"
	"ebs-release/internal/pointer"
	"ebs-release/internal/status"
	"ebs-release/internal/words"

	"github.com/spf13/cobra"
)

// activateCommand is for the programs after a flip. It flips nothing: what makes a release current
// is a push (receive.go) or follow (follow.go).
func (p *program) activateCommand() *cobra.Command {
	var programs activation.Programs
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "activate",
		Short: "Run the programs of activate.d that have not succeeded yet",
		Long: `Run the programs in /etc/ebs-release/activate.d for the release that is current
here, and those in ready.d until all of these say that it serves, unless they
have all succeeded for it. The unit ` + activateUnit + ` does this when
"ebs-release-agent follow" has made another release the current one, or when
programs of drain.d have run, and no other release became current after that.
Root runs them as the user who owns the tree, as a push does. From its own
environment they get PATH and LANG only. After a failure the next call runs all
of them again. It does not report: follow does, or "ebs-release converge".`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.runPrograms(cmd.Context(), timeout, disks.Running{Programs: programs})
		},
	}
	addProgramFlags(cmd, &programs)
	addProgramsTimeout(cmd, &timeout)
	return cmd
}

// beforeCommand is for follow, which has systemd run it: the programs before a flip.
func (p *program) beforeCommand() *cobra.Command {
	var programs activation.Programs
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:    beforeVerb + " " + activation.StageFolder + "|" + activation.DrainFolder + ":GENERATION:RELEASE",
		Short:  "Run the programs of stage.d or drain.d for a release that is here",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			folder, to, err := parseBefore(args[0])
			if err != nil {
				return exit.With(exit.Usage, err)
			}
			return p.runPrograms(cmd.Context(), timeout, disks.Running{Programs: programs, Before: folder, To: to})
		},
	}
	addProgramFlags(cmd, &programs)
	addProgramsTimeout(cmd, &timeout)
	return cmd
}

// beforeVerb is the verb of beforeCommand.
const beforeVerb = "before"

// before is its argument, and the instance of its unit.
func before(folder string, p pointer.Pointer) string {
	return fmt.Sprintf("%s:%d:%s", folder, p.Generation, p.Release)
}

func parseBefore(arg string) (folder string, to activation.Target, err error) {
	folder, rest, _ := strings.Cut(arg, ":")
	number, id, _ := strings.Cut(rest, ":")
	to.Release = id
	to.Generation, err = generation.Parse(number)
	if err != nil || !manifest.ValidID(id) || folder != activation.StageFolder && folder != activation.DrainFolder {
		err = fmt.Errorf("%.80q: want %s or %s, a generation and a release, such as %[2]s:42:20261122T231500Z-9f31c0de77aa",
			arg, activation.StageFolder, activation.DrainFolder)
	}
	return folder, to, err
}

// programsFolder holds the directories with the operator's programs.
const programsFolder = "/etc/ebs-release"

func addProgramFlags(cmd *cobra.Command, programs *activation.Programs) {
	cmd.Flags().StringVar(&programs.Folder, "programs", programsFolder,
		"directory that holds "+strings.Join(activation.Folders(), ", "))
	cmd.Flags().DurationVar(&programs.Timeout, "hook-timeout", time.Minute, "for each program in them")
}

// programsTimeout is below the TimeoutStartSec= of the units: this says more.
const programsTimeout = 55 * time.Minute

func addProgramsTimeout(cmd *cobra.Command, timeout *time.Duration) {
	cmd.Flags().DurationVar(timeout, "timeout", programsTimeout, "how long all of it may take")
}

// runPrograms has a child run some, and tells follow how they ended.
func (p *program) runPrograms(ctx context.Context, timeout time.Duration, what disks.Running) error {
	what.Programs.Ready = p.readyTimeout()
	now, err := p.ready(ctx)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ended, err := disks.RunPrograms(limited, p.logger(), now.MountPoint, what)
	err = late(ctx, err, timeout, now.VolumeID)
	if err != nil && ended.Error == "" {
		ended.Schema, ended.Error = status.Schema, words.OneLine(err)
	}
	if os.Geteuid() == 0 { // for follow, which waits for it
		if writeErr := p.runDir.WritePrograms(ended); writeErr != nil {
			p.logger().Warn("cannot tell how the programs ended", "error", writeErr)
		}
	}
	if err != nil {
		return err
	}
	if p.output == cli.JSON {
		return cli.PrintJSON(p.stdout, ended)
	}
	_, err = fmt.Fprintf(p.stdout, "all programs have succeeded for generation %d\n", ended.Generation)
	return err
}
