package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"

	"github.com/spf13/cobra"
)

func (p *program) historyCommand() *cobra.Command {
	limit := 20
	cmd := &cobra.Command{
		Use:   "history",
		Short: "Show who published what, when, and how it ended; the latest first",
		Long: `Show who published what, when, and how it ended, the latest first; and who ran gc (what it removed: --output json), thawed the release volume, or
ended a publish with lock release. A dash for a generation: that line moved nothing. A line "committed, no report" is of a publish that was killed after
its commit: run ` + "`ebs-release converge`" + `.`,
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
	store, err := pointer.NewFolder(values.Get("pointer-store"))
	if err != nil {
		return exit.With(exit.Usage, err)
	}
	entries, err := store.History(ctx)
	if err != nil {
		return err
	}
	slices.Reverse(entries)
	if limit > 0 {
		entries = entries[:min(limit, len(entries))]
	}
	if p.output == outputJSON {
		return p.printJSON(struct {
			Schema  int             `json:"schema"`
			Entries []pointer.Entry `json:"entries"`
		}{1, slices.Concat([]pointer.Entry{}, entries)})
	}
	if len(entries) == 0 {
		_, err := fmt.Fprintln(p.stdout, "nothing has been published yet")
		return err
	}
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "GENERATION\tWHEN\tWHO\tVERB\tRELEASE\tRESULT\tMESSAGE")
	for _, e := range entries {
		result := e.Result
		switch {
		case e.Result == pointer.ResultCommitted:
			result = "committed, no report"
		case e.Committed && e.Total > 0:
			result = fmt.Sprintf("%s %d/%d", e.Result, e.OnIt, e.Total)
		}
		generation := "-" // it changed nothing
		if e.Committed {
			generation = fmt.Sprint(e.Generation)
		}
		why := e.Message
		if e.Error != "" && why != "" {
			why += ": "
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", generation, e.Time.UTC().Format(time.RFC3339), orDash(e.Who), orDash(e.Verb), orDash(e.Release), result,
			printable(why+e.Error))
	}
	return table.Flush()
}
