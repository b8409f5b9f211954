package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/boot"
	"ebs-release/internal/boot/account"
	"ebs-release/internal/boot/disks"
	"ebs-release/internal/boot/plan"
	"ebs-release/internal/boot/source"
	"ebs-release/internal/boot/up"
	"ebs-release/internal/cli"
	"ebs-release/internal/config"
	"ebs-release/internal/exit"
	"ebs-release/internal/logging"
	"ebs-release/internal/status"

	"github.com/spf13/cobra"
)

func (p *program) upCommand() *cobra.Command {
	var dryRun, older bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Mount the current release, and tell systemd that it is ready",
		Long: `Bring the current release to the mount point: find or make the volume, attach,
check, mount and verify it, report it, and say ready to systemd. On a machine
that is ready it changes nothing. After it was killed, at any point, the next
start goes on from there.

When the pointer names an older generation than this machine holds, it fails and
changes nothing. With --older the volume here is replaced by one that is made
from the pointer's snapshot. The record of the higher generation is lost with
the old volume: do that only when the pointer is right.

In a warm pool it prepares the volume and serves nothing, until the group takes
the instance into service: then it begins again.`,
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
	serves := disks.New(values.Get("mount-point"), sourceOf(values), log).Serves
	now, err := up.Up{
		Dir: p.runDir, Point: values.Get("mount-point"), Reach: reachOf(values, p.getenv), Deadline: values.Duration("deadline"),
		Where: &p.where, Log: log, Serves: serves,
		Parts: func() (boot.Parts, error) {
			pointers, err := newPointers(values, log)
			account := account.New(p.accountSettings(values), log)
			machine := disks.New(values.Get("mount-point"), sourceOf(values), log)
			return boot.Parts{
				Instance: account, Pointers: pointers, Volumes: account, Disks: machine, Mounts: machine, Older: older,
			}, exit.With(exit.Usage, err)
		},
	}.Run(ctx)
	if failed, ok := errors.AsType[*boot.Error](err); ok && failed.Late {
		err = advice.Errorf("%w (the deadline is %s)", err, values.Get("deadline"))
	}
	if err != nil {
		return err
	}
	if err := p.printUp(now); err != nil { // it is ready all the same, and systemd was told
		log.Warn("it is ready, and cannot say so on its output", "error", err)
	}
	return nil
}

func (p *program) printUp(s status.Status) error {
	var text bytes.Buffer
	if p.output == cli.JSON {
		if err := cli.PrintJSON(&text, s); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(&text, "ready: generation %d, release %s at %s (%s) in %s\n",
			s.Generation, s.Release, s.MountPoint, s.VolumeID, s.Finished.Sub(s.Started).Round(time.Millisecond))
	}
	return logging.WriteWithin(logging.Grace, p.stdout, text.Bytes())
}

// newPointers is boot.Pointers, as the settings have it.
func newPointers(values config.Values, log *slog.Logger) (source.Pointers, error) {
	fetcher, err := source.NewFetcher(values.Get("pointer"), log)
	return source.Pointers{
		Fetcher: fetcher, Trusted: values.List("trusted-keys"), Least: int64(values.Int("min-generation")), Log: log,
	}, err
}

func sourceOf(values config.Values) source.Source {
	return source.Source{Pointer: values.Get("pointer"), Trusted: values.List("trusted-keys")}
}

func (p *program) accountSettings(values config.Values) account.Settings {
	return account.Settings{Pointer: values.Get("pointer"), Volume: volumeRequest(values), RunDir: p.runDir}
}

// plan is `up --dry-run`.
func (p *program) plan(ctx context.Context, values config.Values, older bool) error {
	ctx, cancel := context.WithTimeout(ctx, min(plan.Limit, values.Duration("deadline")))
	defer cancel()
	pointers, err := newPointers(values, p.logger())
	if err != nil {
		return exit.With(exit.Usage, err)
	}
	log := slog.New(slog.DiscardHandler) // it would tell of things that are not done
	machine := disks.New(values.Get("mount-point"), sourceOf(values), log)
	steps, err := plan.Of(ctx, account.New(p.accountSettings(values), log), machine, pointers, older)
	if printErr := p.printPlan(steps); printErr != nil {
		return printErr
	}
	return err
}

func (p *program) printPlan(steps []plan.Step) error {
	if p.output == cli.JSON {
		return cli.PrintJSON(p.stdout, struct {
			Schema int         `json:"schema"`
			Plan   []plan.Step `json:"plan"`
		}{status.Schema, steps})
	}
	var rows [][]string
	for _, s := range steps {
		rows = append(rows, []string{s.Stage, s.Does})
	}
	return cli.PrintTable(p.stdout, rows)
}
