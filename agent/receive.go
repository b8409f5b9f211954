package main

import (
	"context"
	"os"

	"ebs-release/internal/activation"
	"ebs-release/internal/boot/disks"
	"ebs-release/internal/cli"
	"ebs-release/internal/receive"
	"ebs-release/internal/release"
	"ebs-release/internal/status"

	"github.com/spf13/cobra"
)

// receiveCommand is the member's end of a publish: stage (P3) and activate (P5, the flip). See
// internal/receive for who does what.
func (p *program) receiveCommand() *cobra.Command {
	var programs activation.Programs
	cmd := &cobra.Command{
		Use:   "receive",
		Short: "Take releases from the publisher, which calls this over ssh",
		Long: `Take releases from the publisher, which calls this over ssh as the user who owns
the tree. It reads requests on stdin, one line of JSON each, and answers on
stdout, until the end of stdin:

stage     fetches the packs that it names from the store of this machine's
          pointer, and makes the new release beside the one before; unchanged
          files become hard links to it. When there is no room, the releases
          that are needed least are deleted. As root, which sees whether
          anybody uses a tree, the oldest tree is made into the new one. Then
          the programs in /etc/ebs-release/stage.d look at it: when one fails,
          the release is not taken.
activate  runs the programs in drain.d, if another release is current, makes the
          release the current one, runs the programs in activate.d, and those in
          ready.d until all of them succeed, and deletes releases that are not
          needed any more. When a program of drain.d fails, what is current
          stays, and those of activate.d and ready.d run for it again.
verify    reads every file of a release.

The programs run as the same user, in the order of their names, for example to
reload a service. They get EBS_RELEASE_GENERATION, EBS_RELEASE_ID,
EBS_RELEASE_PATH and EBS_RELEASE_PREVIOUS; before the release is current,
EBS_RELEASE_STAGED is its directory. When one of activate.d fails, or ready.d
does not succeed within ready-timeout, the release is active all the same; the
publisher names the member and the program, and the next activation of the same
generation runs all of them again. Once all of them have succeeded for a
generation, they do not run again for it; only a power cut may make them run
twice.`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		programs.Ready = p.readyTimeout()
		programs.Inherit = os.Environ() // before reached adds what only the store needs
		talks := receive.Conversation{Worker: disks.Receive{
			Ready: p.ready, Reached: p.reached, Who: p.whoSoon, Programs: programs, Keep: p.keep(), Log: p.logger(),
		}, Version: cli.Version(version), Log: p.logger()}
		return talks.Run(cmd.Context(), p.stdin, p.stdout)
	}
	addProgramFlags(cmd, &programs)
	return cmd
}

// leastKept are kept where neither the publisher nor the settings say how many.
const leastKept = 3

// keep is the setting, for a publisher that does not say it.
func (p *program) keep() int {
	values, err := p.settings()
	if err != nil { // whoever logs in need not be able to read them
		return leastKept
	}
	return values.Int("keep")
}

// ready is a member whose boot is over.
func (p *program) ready(ctx context.Context) (status.Status, error) {
	now, err := p.observe(ctx)
	if err == nil {
		err = notReady(now)
	}
	return now, err
}

// readyVolume opens the release volume of a member whose boot is over, and says its id.
func (p *program) readyVolume(ctx context.Context) (*release.Volume, string, error) {
	now, err := p.ready(ctx)
	if err != nil {
		return nil, "", err
	}
	v, err := release.Open(now.MountPoint)
	return v, now.VolumeID, err
}
