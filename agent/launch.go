package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"ebs-release/internal/activation"
	"ebs-release/internal/boot"
	"ebs-release/internal/config"
	"ebs-release/internal/hook"
	"ebs-release/internal/launch"
	"ebs-release/internal/output"
	"ebs-release/internal/status"

	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/spf13/cobra"
)

func (p *program) launchCommand() *cobra.Command {
	var folder string
	var ready hook.Dir
	cmd := &cobra.Command{
		Use:   "launch",
		Short: "Complete the group's launch hook when this member serves",
		Long: `Tell the Auto Scaling group that this instance may have traffic: when the
release is there, when the unit in launch-after is active, and when all programs
in /etc/ebs-release/ready.d have succeeded; they run again until they do. Until
then the hook's time-out is started again and again, whatever the boot waits
for: another instance would wait for it, too. The launch is given up (ABANDON)
only when no disk comes of the volume, three boots in a row.

The unit ebs-release-launch.service runs this. Without launch-hook it does
nothing. The programs run as the user who owns the tree.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ready.Path = filepath.Join(folder, activation.ReadyFolder)
			return p.launch(cmd.Context(), ready)
		},
	}
	cmd.Flags().StringVar(&folder, "programs", programsFolder, "directory that holds "+activation.ReadyFolder)
	cmd.Flags().DurationVar(&ready.Timeout, "hook-timeout", time.Minute, "for each program in it")
	return cmd
}

func (p *program) launch(ctx context.Context, ready hook.Dir) error {
	values, err := p.settings()
	if err != nil {
		return err
	}
	name := values.Get("launch-hook")
	if name == "" {
		_, err := fmt.Fprintln(p.stdout, "no launch hook is set")
		return err
	}
	log := p.logger()
	cfg, me, err := loadAWS(ctx, log)
	if err != nil {
		return err
	}
	return launch.Hook{
		API: autoscaling.NewFromConfig(cfg), Name: name, InstanceID: me.InstanceID, Boot: p.bootSoFar,
		Serves: func(ctx context.Context) error { return p.serves(ctx, values, ready) },
		Log:    log, Timing: launch.DefaultTiming(),
	}.Run(ctx)
}

// bootSoFar goes by what the boot has left; serves looks at the volume.
func (p *program) bootSoFar() (launch.Boot, error) {
	s, err := p.runDir.Read()
	if err != nil {
		return launch.Boot{}, err
	}
	b := launch.Boot{Ready: s.State == status.Ready, Says: s.Error}
	if s.State == status.Failed {
		// EC2 attached the volume, and the machine sees no disk, whichever name and volume it was.
		b.Ended, b.Machine = s.Finished, s.Stage == boot.StageFind
	}
	if b.Says == "" && !b.Ready {
		b.Says = strings.TrimSpace("the boot is " + s.State + " " + s.Stage)
	}
	return b, nil
}

// serves is nil when volume, unit and programs say that the application can take traffic.
func (p *program) serves(ctx context.Context, values config.Values, ready hook.Dir) error {
	v, _, err := p.readyVolume(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = v.Close() }()
	if unit := values.Get("launch-after"); unit != "" {
		if err := unitActive(ctx, unit); err != nil {
			return err
		}
	}
	if ready.As, err = programsUser(v); err != nil {
		return err
	}
	n, id, err := v.Fence()
	if err != nil {
		return err
	}
	ready.Inherit = plainEnvironment(ready.As != nil)
	ready.Env = []string{fmt.Sprintf("EBS_RELEASE_GENERATION=%d", n), "EBS_RELEASE_ID=" + id, "EBS_RELEASE_PATH=" + v.Root() + "/current"}
	if err := ready.Run(ctx); err != nil {
		return fmt.Errorf("run %s: %w", ready.Path, err)
	}
	return nil
}

func unitActive(ctx context.Context, unit string) error {
	said := &output.Ends{}
	cmd := exec.CommandContext(ctx, "systemctl", "is-active", unit)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = said, said, time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the unit %s is not active: %s", unit, strings.Join(strings.Fields(said.String()), " "))
	}
	return nil
}

var (
	// LifecycleHookName: 1 to 255 of these (PutLifecycleHook).
	lifecycleHook = regexp.MustCompile(`^[A-Za-z0-9\-_/]{1,255}$`)
	unitName      = regexp.MustCompile(`^[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]{0,254}\.[a-z]+$`)
)

// checkLaunchHook checks the setting launch-hook.
func checkLaunchHook(value string) error {
	if value != "" && !lifecycleHook.MatchString(value) {
		return errors.New("want the name of a lifecycle hook")
	}
	return nil
}

// checkUnit checks the setting launch-after.
func checkUnit(value string) error {
	if value != "" && !unitName.MatchString(value) {
		return errors.New("want the name of a unit, such as server.service")
	}
	return nil
}
