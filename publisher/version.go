package main

import (
	"fmt"
	"runtime"

	"ebs-release/internal/status"

	"github.com/spf13/cobra"
)

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if p.output == status.JSON {
				return p.printJSON(map[string]any{"schema": status.Schema, "version": status.Version(version), "go": runtime.Version()})
			}
			_, err := fmt.Fprint(p.stdout, versionLine())
			return err
		},
	}
}

func versionLine() string { return "ebs-release version " + versionText() + "\n" }

func versionText() string { return fmt.Sprintf("%s (%s)", status.Version(version), runtime.Version()) }
