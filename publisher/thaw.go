package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"ebs-release/internal/advice"
	"ebs-release/internal/cli"
	"ebs-release/internal/config"
	"ebs-release/internal/exit"
	"ebs-release/internal/freeze"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish/checks"
	"ebs-release/internal/status"

	"github.com/spf13/cobra"
)

func (p *program) thawCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "thaw",
		Short: "Unfreeze the release volume, if a publish left it frozen",
		Long: `Unfreeze the release volume. A publish never leaves it frozen for more than 10
seconds, even if it is killed: its guard process thaws it. This command is for
the case that the guard was killed as well. A volume that is not frozen is left
alone, and thaw says so.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			values, err := p.settings()
			if err != nil {
				return err
			}
			return p.thaw(cmd.Context(), values)
		},
	}
}

func (p *program) thaw(ctx context.Context, values config.Values) error {
	point := values.Get("mount-point")
	if _, err := checks.Mounted(point); err != nil {
		return exit.With(exit.Unchanged, fmt.Errorf("nothing was changed: %w", err))
	}
	if os.Geteuid() != 0 {
		return exit.With(exit.Unchanged, advice.Try(errors.New("nothing was changed: unfreezing a file system needs root"), "sudo"))
	}
	thawed := true
	if err := freeze.Thaw(point); errors.Is(err, freeze.ErrNotFrozen) {
		thawed = false
	} else if err != nil {
		return err
	}
	if store := values.Get("pointer-store"); thawed && store != "" { // to thaw needs no store
		p.recordThaw(ctx, store, point)
	}
	if p.output == cli.JSON {
		return p.printJSON(struct {
			Schema     int    `json:"schema"`
			MountPoint string `json:"mount_point"`
			WasFrozen  bool   `json:"was_frozen"`
		}{status.Schema, point, thawed})
	}
	says := point + " was not frozen"
	if thawed {
		says = point + " was frozen, and can be written to again"
	}
	_, err := fmt.Fprintln(p.stdout, says)
	return err
}

func (p *program) recordThaw(ctx context.Context, directory, point string) {
	store, err := openStore(ctx, directory, later(ctx))
	if err != nil {
		fmt.Fprintf(p.stderr, "warning: this is not in the history: %v\n", err)
		return
	}
	p.record(ctx, store, pointer.Entry{Verb: verbThaw, Message: point + " was frozen", Result: resultDone})
}
