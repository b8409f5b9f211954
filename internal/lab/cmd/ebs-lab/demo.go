package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/lab"
	"ebs-release/internal/lab/demo"

	"github.com/spf13/cobra"
)

func demoCommand(opts *lab.Options) *cobra.Command {
	var source string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the main job on real input: publish, boot, publish while the group grows, reboot, scale in",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if source == "" {
				root, err := exec.CommandContext(cmd.Context(), "go", "env", "GOROOT").Output()
				if err != nil {
					return advice.Try(fmt.Errorf("find the Go toolchain's source tree (go env GOROOT): %w", err), "--source FOLDER")
				}
				source = filepath.Join(strings.TrimSpace(string(root)), "src")
			}
			return demo.Run(cmd.Context(), *opts, source, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&source, "source", "", "directory to publish (default: the Go toolchain's own source tree)")
	return cmd
}
