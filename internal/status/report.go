package status

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// The formats of --output.
const (
	Text = "text"
	JSON = "json"
)

// CheckOutput refuses a --output that is neither text nor json.
func CheckOutput(format string) error {
	if format != Text && format != JSON {
		return fmt.Errorf("--output is %q, want %s or %s", format, Text, JSON)
	}
	return nil
}

// PrintJSON writes a report for programs, indented.
func PrintJSON(out io.Writer, report any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(report); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// PrintTable writes rows for people, columns aligned; the first row may be a header. An empty cell is a dash.
func PrintTable(out io.Writer, rows [][]string) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = cell
			if cell == "" {
				cells[i] = "-"
			}
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}
