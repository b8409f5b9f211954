package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ebs-release/internal/boot"
	"ebs-release/internal/config"
	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/status"

	"github.com/spf13/cobra"
)

func (p *program) upCommand() *cobra.Command {
	var dryRun, older bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring the current release to the mount point, and say ready",
		Long: `Bring the current release to the mount point: find or make the volume, attach, check, mount and verify it, report it, and say ready to systemd.
Once more on a machine that is ready changes nothing. Killed at any point, it goes on where it was when it is started again.

A pointer that names an older generation than this machine holds fails, and changes nothing. With --older the volume here is replaced by one of the
pointer's snapshot, and with it goes the record of the higher generation: do that only when the pointer is right.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			values, err := p.bootSettings()
			if err != nil {
				return err
			}
			if dryRun {
				return p.plan(cmd.Context(), values, older)
			}
			return p.up(cmd.Context(), values, older)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what each stage would do, and change nothing")
	cmd.Flags().BoolVar(&older, "older", false, "take the pointer's release although this machine holds a newer one")
	return cmd
}

func (p *program) up(ctx context.Context, values config.Values, older bool) error {
	log := p.logger()
	ctx, cancel := context.WithTimeout(ctx, values.Duration("deadline"))
	defer cancel()
	if err := p.runDir.Make(); err != nil {
		return asRoot(err)
	}
	lock, err := takeLock(ctx, p.runDir.LockPath())
	if err != nil {
		return err
	}
	defer lock.Close()

	fetcher, err := pointer.NewFetcher(values.Get("pointer"), log)
	if err != nil {
		return exit.With(exit.Usage, err)
	}
	account := newAccount(values, log)
	machine := newMachine(values.Get("mount-point"), log)
	reporter := newReporter(p.runDir, values.Get("mount-point"), &p.where, machine.serves, log)
	parts := boot.Parts{
		Instance: account, Pointers: pointers{fetcher}, Volumes: account, Disks: machine, Mounts: machine, Gate: reporter, Older: older,
	}
	if err := reporter.begin(); err != nil {
		return err
	}
	_, err = boot.Run(ctx, parts, reporter, log)
	if finishErr := reporter.finish(err); err == nil {
		err = finishErr
	}
	if failed, ok := errors.AsType[*boot.Error](err); ok && failed.Late {
		err = fmt.Errorf("%w (the deadline is %s)", err, values.Get("deadline"))
	}
	if err != nil {
		return err
	}
	return p.printUp(reporter.now)
}

func (p *program) printUp(s status.Status) error {
	if p.output == status.JSON {
		return status.PrintJSON(p.stdout, s)
	}
	_, err := fmt.Fprintf(p.stdout, "ready: generation %d, release %s at %s (%s) in %s\n",
		s.Generation, s.Release, s.MountPoint, s.VolumeID, s.Finished.Sub(s.Started).Round(time.Millisecond))
	return err
}
