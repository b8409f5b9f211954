package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"ebs-release/internal/publish"
)

// printJSON writes a report to stdout.
func (p *program) printJSON(report any) error {
	enc := json.NewEncoder(p.stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(report); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// printMembers writes a table.
func printMembers(out io.Writer, members []publish.Member) error {
	if len(members) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "INSTANCE\tGROUP\tLIFECYCLE\tADDRESS\tGENERATION\tSTATE\tSTANDING")
	for _, m := range members {
		generation := "-"
		if m.Generation > 0 {
			generation = fmt.Sprint(m.Generation)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.InstanceID, m.Group, m.LifecycleState, orDash(m.Address), generation, orDash(m.State), m.Standing)
	}
	return table.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
