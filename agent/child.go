package main

import (
	"ebs-release/internal/boot/disks"
	"ebs-release/internal/exit"

	"github.com/spf13/cobra"
)

func (p *program) diskWorkCommand() *cobra.Command {
	return &cobra.Command{
		Use:    disks.Verb,
		Short:  "Touch disks for the other verbs, which must not hang with them",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return exit.With(exit.Failed, disks.Work(cmd.Context(), p.stdin, p.stdout))
		},
	}
}
