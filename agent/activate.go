package main

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"time"

	"ebs-release/internal/activation"
	"ebs-release/internal/cli"
	"ebs-release/internal/hook"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
	"ebs-release/internal/words"

	"github.com/spf13/cobra"
)

func (p *program) activateCommand() *cobra.Command {
	var hooks hook.Dir
	cmd := &cobra.Command{
		Use:   "activate",
		Short: "Run the programs of activate.d that have not succeeded yet",
		Long: `Run the programs in /etc/ebs-release/activate.d for the release that is current
here, unless all of them have succeeded for it. The unit
` + activateUnit + ` does this when "ebs-release-agent follow"
has made another release the current one. Root runs them as the user who owns
the tree, as a push does. From its own environment they get PATH and LANG only.
After a failure the next call runs all of them again.
It does not report: follow does, or "ebs-release converge".`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.activate(cmd.Context(), hooks) },
	}
	addHookFlags(cmd, &hooks)
	return cmd
}

func addHookFlags(cmd *cobra.Command, hooks *hook.Dir) {
	cmd.Flags().StringVar(&hooks.Path, "hooks", "/etc/ebs-release/activate.d", "directory with programs to run after an activation")
	cmd.Flags().DurationVar(&hooks.Timeout, "hook-timeout", time.Minute, "for each of them")
}

func (p *program) activate(ctx context.Context, hooks hook.Dir) error {
	v, err := p.writableVolume(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = v.Close() }()
	if hooks.As, err = programsUser(v); err != nil {
		return err
	}
	hooks.Inherit = plainEnvironment(hooks.As != nil)
	ended := status.Programs{Schema: status.Schema}
	if ended.Generation, err = v.Generation(); err != nil {
		return err
	}
	err = activation.Pending(ctx, v, hooks)
	if err != nil {
		ended.Error = words.OneLine(err)
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
