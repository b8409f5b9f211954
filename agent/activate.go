package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"ebs-release/internal/activation"
	"ebs-release/internal/cli"
	"ebs-release/internal/exit"
	"ebs-release/internal/generation"
	"ebs-release/internal/hook"
	"ebs-release/internal/manifest"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
	"ebs-release/internal/words"

	"github.com/spf13/cobra"
)

func (p *program) activateCommand() *cobra.Command {
	var programs activation.Programs
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
			return p.runPrograms(cmd.Context(), programs, activation.Pending)
		},
	}
	addProgramFlags(cmd, &programs)
	return cmd
}

// beforeCommand is for follow, which has systemd run it: the programs before a flip.
func (p *program) beforeCommand() *cobra.Command {
	var programs activation.Programs
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
			return p.runPrograms(cmd.Context(), programs, func(ctx context.Context, v *release.Volume, programs activation.Programs) (err error) {
				if to.Digest, err = v.ManifestDigest(to.Release); err != nil {
					return err
				}
				if folder == activation.StageFolder {
					return activation.Stage(ctx, v, programs, to)
				}
				return activation.Drain(ctx, v, programs, to)
			})
		},
	}
	addProgramFlags(cmd, &programs)
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

// runPrograms runs some, and tells follow how they ended.
func (p *program) runPrograms(ctx context.Context, programs activation.Programs,
	run func(context.Context, *release.Volume, activation.Programs) error,
) error {
	programs.Ready = p.readyTimeout()
	v, err := p.writableVolume(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = v.Close() }()
	if programs.As, err = programsUser(v); err != nil {
		return err
	}
	programs.Inherit = plainEnvironment(programs.As != nil)
	ended := status.Programs{Schema: status.Schema}
	if ended.Generation, err = v.Generation(); err != nil {
		return err
	}
	err = run(ctx, v, programs)
	if err != nil {
		ended.Error, ended.Refused = words.OneLine(err), errors.Is(err, activation.ErrRefused)
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

// plainEnvironment is what programs inherit here: nothing that only the agent needs, or may know,
// such as a proxy or keys of AWS. Another user has names of his own.
func plainEnvironment(another bool) []string {
	names := []string{"PATH", "LANG"}
	if !another {
		names = append(names, "HOME", "USER", "LOGNAME")
	}
	inherit := []string{}
	for _, name := range names {
		if value, is := os.LookupEnv(name); is {
			inherit = append(inherit, name+"="+value)
		}
	}
	return inherit
}

// programsUser is the owner of the tree, for root; nil: the programs run as who runs this.
func programsUser(v *release.Volume) (*hook.User, error) {
	uid, gid, err := v.Owner()
	if err != nil || os.Geteuid() != 0 || uid == 0 {
		return nil, err
	}
	u := &hook.User{UID: uid, GID: gid}
	known, err := user.LookupId(strconv.Itoa(uid))
	if err != nil { // it has a number only
		return u, nil
	}
	u.Env = []string{"HOME=" + known.HomeDir, "USER=" + known.Username, "LOGNAME=" + known.Username}
	groups, err := known.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("groups of user %s: %w", known.Username, err)
	}
	for _, id := range groups {
		if n, err := strconv.Atoi(id); err == nil {
			u.Groups = append(u.Groups, n)
		}
	}
	if n, err := strconv.Atoi(known.Gid); err == nil {
		u.GID = n
	}
	return u, nil
}
