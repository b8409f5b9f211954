package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/boot/disks"
	"ebs-release/internal/cli"
	"ebs-release/internal/exit"
	"ebs-release/internal/manifest"
	"ebs-release/internal/push/wire"

	"github.com/spf13/cobra"
)

func (p *program) verifyCommand() *cobra.Command {
	var what disks.Verifying
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "verify [--release ID] [--digest HEX]",
		Short: "Compare every file of a release here with the manifest",
		Long: `Read every file of a release that is here, and compare content, mode, type and
link target with the manifest: whatever was changed, added or lost is an error
that names it. Without --release it is the release that was activated last, and
"current" has to lead to it. Nothing is changed. "ebs-release verify" asks for
the same over ssh. Exit 1: the release is damaged, or not here. Exit 3: the boot
of this member is not over.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			answer, err := p.verify(cmd.Context(), what, timeout)
			if err != nil {
				return err
			}
			if p.output == cli.JSON {
				return wire.Write(p.stdout, answer)
			}
			_, err = fmt.Fprintf(p.stdout, "release %s: all %d files are as the manifest says\n", answer.Release, answer.Files)
			return err
		},
	}
	cmd.PreRunE = func(*cobra.Command, []string) error {
		switch {
		case what.Release != "" && !manifest.ValidID(what.Release):
			return exit.With(exit.Usage, errors.New("--release is no release id"))
		case what.Digest != "" && !manifest.ValidDigest(what.Digest):
			return exit.With(exit.Usage, errors.New("--digest is not 64 lower-case hex digits"))
		default:
			return nil
		}
	}
	cmd.Flags().StringVar(&what.Release, "release", "", "id of a release that is here (default: the one that was activated last)")
	cmd.Flags().StringVar(&what.Digest, "digest", "", "the digest that its manifest must have")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Hour, "how long all of it may take")
	return cmd
}

// verify has a child read the files: who waits for a disk that stops answering cannot even be
// interrupted.
func (p *program) verify(ctx context.Context, what disks.Verifying, timeout time.Duration) (wire.Verified, error) {
	now, err := p.ready(ctx)
	if err != nil {
		return wire.Verified{}, err
	}
	limit, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	verified, err := disks.Verify(limit, p.logger(), now.MountPoint, what)
	return verified, late(ctx, err, timeout, now.VolumeID)
}

// late is the error of what a child did with a volume within a time, or did not.
func late(ctx context.Context, err error, timeout time.Duration, volumeID string) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		return advice.Try(fmt.Errorf("not done in %s: %w", timeout, err),
			"aws ec2 describe-volume-status --volume-ids %s; or a longer --timeout", volumeID)
	}
	return err
}
