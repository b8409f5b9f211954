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
	"ebs-release/internal/boot/disks"
	"ebs-release/internal/config"
	"ebs-release/internal/hook"
	"ebs-release/internal/instance"
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
only when no disk comes of the volume, three boots in a row. Without launch-hook
there is no hook to complete.

On the way into a warm pool the hook is completed when the volume is prepared.
It goes on running as long as a group has this instance: when that takes it
back into its warm pool, the agent's unit is restarted, and what needs the
release is stopped until the group takes the instance into service again.

The unit ebs-release-launch.service runs this. The programs run as the user who
owns the tree.`,
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
	log := p.logger()
	cfg, me, err := instance.Load(ctx, log)
	if err != nil {
		return err
	}
	metadata := instance.NewClient(cfg)
	return launch.Hook{
		API: autoscaling.NewFromConfig(cfg), Name: values.Get("launch-hook"), InstanceID: me.InstanceID, Boot: p.bootSoFar,
		Target: func(ctx context.Context) (string, error) { return instance.TargetState(ctx, metadata) }, Close: p.closeGate,
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
	b := launch.Boot{
		Ready: s.State == status.Ready, Since: s.Finished, Warmed: s.State == status.Warmed, Says: s.Error,
		Closing: s.State == status.Booting && s.Stage == stageClosing,
	}
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
	now, err := p.ready(ctx)
	if err != nil {
		return err
	}
	fence, err := disks.ReadFence(ctx, p.logger(), now.MountPoint)
	if err != nil {
		return err
	}
	if unit := values.Get("launch-after"); unit != "" {
		if err := unitActive(ctx, unit); err != nil {
			return err
		}
	}
	if ready.As, err = hook.Owner(fence.UID, fence.GID); err != nil {
		return err
	}
	ready.Inherit = hook.PlainEnvironment(ready.As)
	ready.Env = []string{
		fmt.Sprintf("EBS_RELEASE_GENERATION=%d", fence.Generation), "EBS_RELEASE_ID=" + fence.Release,
		"EBS_RELEASE_PATH=" + now.MountPoint + "/current",
	}
	if err := ready.Run(ctx); err != nil {
		return fmt.Errorf("run %s: %w", ready.Path, err)
	}
	return nil
}

// stageClosing is in status.json until the boot that closeGate asks for begins.
const stageClosing = "close the gate"

// closeGate restarts the agent's unit: what requires the release is stopped, and waits for the
// boot that begins. What the last one left counts for nothing from here on.
func (p *program) closeGate(ctx context.Context) error {
	before, err := p.runDir.Read()
	if err != nil {
		return err
	}
	now := before
	now.State, now.Stage = status.Booting, stageClosing
	if err := p.runDir.Write(now); err != nil {
		return err
	}
	if err := systemctl(ctx, "--no-block", "restart", "ebs-release-agent.service"); err != nil {
		return errors.Join(err, p.runDir.Write(before))
	}
	return nil
}

func systemctl(ctx context.Context, args ...string) error {
	said := &output.Ends{}
	cmd := exec.CommandContext(ctx, "systemctl", args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = said, said, time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.Join(strings.Fields(said.String()), " "))
	}
	return nil
}

func unitActive(ctx context.Context, unit string) error {
	if err := systemctl(ctx, "is-active", unit); err != nil {
		return fmt.Errorf("the unit %s is not active: %w", unit, err)
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
