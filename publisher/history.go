package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ebs-release/internal/cli"
	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/status"
	"ebs-release/internal/words"

	"github.com/spf13/cobra"
)

func (p *program) historyCommand() *cobra.Command {
	limit := 20
	cmd := &cobra.Command{
		Use:   "history",
		Short: "Show who published what and when, and how it ended; latest first",
		Long: `Show who published what and when, and how it ended, the latest first; also who
ran snapshot, gc (--output json says what it deleted), thaw, lock release, key
init or key sign. A dash instead of a generation: the pointer was not moved.
"committed, no report": the publish was killed after its commit; run
` + "`ebs-release converge`" + `.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return exit.With(exit.Usage, errors.New("--limit: want 0 (all) or more"))
			}
			return p.history(cmd.Context(), limit)
		},
	}
	cmd.Flags().IntVarP(&limit, "limit", "n", limit, "how many entries; 0: all that are kept, which is a thousand")
	return cmd
}

func (p *program) history(ctx context.Context, limit int) error {
	values, err := p.settings("pointer-store")
	if err != nil {
		return err
	}
	store, err := openStore(ctx, values.Get("pointer-store"), later(ctx))
	if err != nil {
		return err
	}
	entries, err := store.History(ctx)
	if err != nil {
		return err
	}
	if wrong := placesOf(values).wrong(ctx, store); wrong != nil {
		fmt.Fprintf(p.stderr, "warning: %s\n", words.OneLine(wrong))
	}
	slices.Reverse(entries)
	if limit > 0 {
		entries = entries[:min(limit, len(entries))]
	}
	if p.output == cli.JSON {
		return p.printJSON(struct {
			Schema  int             `json:"schema"`
			Entries []pointer.Entry `json:"entries"`
		}{status.Schema, slices.Concat([]pointer.Entry{}, entries)})
	}
	if len(entries) == 0 {
		_, err := fmt.Fprintln(p.stdout, "nothing has been published yet")
		return err
	}
	rows := [][]string{{"GENERATION", "WHEN", "WHO", "VERB", "RELEASE", "RESULT", "MESSAGE", "REASON"}}
	for _, e := range entries {
		rows = append(rows, historyRow(e))
	}
	return cli.PrintTable(p.stdout, rows)
}

func historyRow(e pointer.Entry) []string {
	generation := "" // it moved nothing
	if e.Committed {
		generation = fmt.Sprint(e.Generation)
	}
	result := e.Result
	switch {
	case e.Result == pointer.ResultCommitted:
		result = "committed, no report"
	case e.Committed && e.Total > 0:
		result = fmt.Sprintf("%s %d/%d", e.Result, e.OnIt, e.Total)
	}
	return []string{generation, e.Time.UTC().Format(time.RFC3339), e.Who, e.Verb, e.Release, result, printable(e.Message), printable(e.Error)}
}
