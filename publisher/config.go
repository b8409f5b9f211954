package main

import (
	"ebs-release/internal/config"
	"ebs-release/internal/status"

	"github.com/spf13/cobra"
)

func (p *program) configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Look at the configuration"}
	cmd.AddCommand(&cobra.Command{
		Use:   "show",
		Short: "Print each setting, and where its value comes from",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			values, err := p.settings()
			if err != nil {
				return err
			}
			if p.output == status.JSON {
				return p.printJSON(struct {
					Schema   int           `json:"schema"`
					Settings config.Values `json:"settings"`
				}{status.Schema, values})
			}
			var rows [][]string
			for _, v := range values {
				rows = append(rows, []string{v.Key, v.Value, v.Source})
			}
			return status.PrintTable(p.stdout, rows)
		},
	})
	return cmd
}
