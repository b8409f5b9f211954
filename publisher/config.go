package main

import (
	"fmt"
	"text/tabwriter"

	"ebs-release/internal/config"

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
			if p.output == outputJSON {
				return p.printJSON(struct {
					Schema   int           `json:"schema"`
					Settings config.Values `json:"settings"`
				}{1, values})
			}
			table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
			for _, v := range values {
				fmt.Fprintf(table, "%s\t%s\t%s\n", v.Key, orDash(v.Value), v.Source)
			}
			return table.Flush()
		},
	})
	return cmd
}
