package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"text/tabwriter"

	"ebs-release/internal/words"
)

// The formats of --output.
const (
	Text = "text"
	JSON = "json"
)

// OutputOf is the --output among arguments that could not be parsed, such as those of an unknown
// verb; "" when there is none.
func OutputOf(args []string) string {
	for i, arg := range args {
		if format, ok := strings.CutPrefix(arg, "--output="); ok {
			return format
		}
		if arg == "--output" && i+1 < len(args) {
			return args[i+1]
		}
	}
	return ""
}

// CheckOutput refuses a --output that is neither text nor json.
func CheckOutput(format string) error {
	if format != Text && format != JSON {
		return fmt.Errorf("--output is %q, want %s or %s", format, Text, JSON)
	}
	return nil
}

// Failure is the report of a verb that failed before it had one of its own.
type Failure struct {
	Schema   int    `json:"schema"`
	Error    string `json:"error"` // one line
	ExitCode int    `json:"exit_code"`
}

// Stdout is a program's stdout that knows whether anything was written to it: a verb that fails
// prints a Failure only where it printed no report.
type Stdout struct {
	io.Writer
	Used bool
	// Lets says that a reader that went away (`| head`) is no error: the exit code tells how it
	// ended.
	Lets bool
}

func (s *Stdout) Write(p []byte) (int, error) {
	s.Used = true
	n, err := s.Writer.Write(p)
	if s.Lets && errors.Is(err, syscall.EPIPE) {
		return len(p), nil
	}
	return n, err
}

// Fd is the file descriptor that is written to, for those who ask whether it is a terminal; of
// something else it is none.
func (s *Stdout) Fd() uintptr {
	if f, ok := s.Writer.(interface{ Fd() uintptr }); ok {
		return f.Fd()
	}
	return ^uintptr(0)
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

// PrintTable writes rows for people, columns aligned; the first row may be a header. An empty cell
// is a dash.
func PrintTable(out io.Writer, rows [][]string) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = words.Printable(cell)
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
