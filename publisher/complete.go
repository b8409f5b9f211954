package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ebs-release/internal/cli"

	"github.com/spf13/cobra"
)

// complete tells the shells what the values of flags are. No verb but publish has files for
// arguments.
func (p *program) complete(root *cobra.Command) {
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	_ = errors.Join( // these fail only for a flag that is not there
		root.RegisterFlagCompletionFunc("config", cli.Files),
		root.RegisterFlagCompletionFunc("ssh-key", cli.Files),
		root.RegisterFlagCompletionFunc("signing-key", cli.Files),
		root.MarkPersistentFlagDirname("mount-point"),
		root.MarkPersistentFlagDirname("pointer-store"), // or s3://…, which no shell knows
		root.RegisterFlagCompletionFunc("output", cli.Words(cli.Text, cli.JSON, outputNDJSON)),
	)
}

// completeTime is how long a person who presses Tab waits for a store in S3.
const completeTime = 3 * time.Second

// completeGenerations offers what rollback can go back to, the latest first.
func (p *program) completeGenerations(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const directive = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	values, err := p.settings("pointer-store")
	if err != nil {
		return nil, directive
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
	defer cancel()
	store, err := openStore(ctx, values.Get("pointer-store"), later(ctx))
	if err != nil {
		return nil, directive
	}
	entries, err := store.History(ctx)
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
