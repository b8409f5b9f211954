package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"ebs-release/internal/pointer"
	"ebs-release/internal/status"

	"github.com/spf13/cobra"
)

// complete tells the shells what the values of flags are. No verb but publish has files for
// arguments.
func (p *program) complete(root *cobra.Command) {
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	_ = errors.Join( // these fail only for a flag that is not there
		root.RegisterFlagCompletionFunc("config", files),
		root.RegisterFlagCompletionFunc("ssh-key", files),
		root.MarkPersistentFlagDirname("mount-point"),
		root.MarkPersistentFlagDirname("pointer-store"),
		root.RegisterFlagCompletionFunc("output", completions(status.Text, status.JSON, outputNDJSON)),
	)
}

// files are the value of a flag: the shell knows them.
func files(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

// completions are the values of a flag.
func completions(all ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(all, cobra.ShellCompDirectiveNoFileComp)
}

// completeGenerations offers what rollback can go back to, the latest first.
func (p *program) completeGenerations(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const directive = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	values, err := p.settings("pointer-store")
	if err != nil {
		return nil, directive
	}
	store, err := pointer.NewFolder(values.Get("pointer-store"))
	if err != nil {
		return nil, directive
	}
	entries, err := store.History(cmd.Context())
	if err != nil {
		return nil, directive
	}
	var all []cobra.Completion
	for _, e := range slices.Backward(entries) {
		if e.Committed && e.Verb != verbConverge {
			all = append(all, cobra.CompletionWithDesc(fmt.Sprint(e.Generation), cmp.Or(printable(e.Message), e.Release)))
		}
	}
	return all, directive
}
