package main

import (
	"fmt"

	"ebs-release/internal/cli"
	"ebs-release/internal/status"

	"github.com/spf13/cobra"
)

func (p *program) configCommand() *cobra.Command {
	cmd := cli.ConfigCommand(p.settings, &p.output)
	cmd.AddCommand(&cobra.Command{
		Use:   "check",
		Short: "Check whether `up` can start with this configuration; exit 2: no",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			values, err := p.bootSettings()
			if err != nil {
				return err
			}
			if p.output == cli.JSON {
				return cli.PrintJSON(p.stdout, map[string]any{"schema": status.Schema, "state": "ok"})
			}
			_, err = fmt.Fprintf(p.stdout, "ok: the pointer is %s, the mount point %s\n", values.Get("pointer"), values.Get("mount-point"))
			return err
		},
	})
	return cmd
}
