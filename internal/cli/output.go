package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"unicode/utf8"

	"ebs-release/internal/words"

	"golang.org/x/term"
)

// The formats of --output.
const (
	Text = "text"
	JSON = "json"
)

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
// is a dash. On a terminal that is too narrow the widest columns are cut, with an ellipsis; a pipe
// or a file gets all of it.
func PrintTable(out io.Writer, rows [][]string) error {
	cells := make([][]string, len(rows))
	var width []int
	for i, row := range rows {
		for n, cell := range row {
			cell = cmp.Or(words.Printable(cell), "-")
			cells[i] = append(cells[i], cell)
			if n == len(width) {
				width = append(width, 0)
			}
			width[n] = max(width[n], utf8.RuneCountInString(cell))
		}
	}
	if fd, ok := words.Terminal(out); ok {
		if columns, _, err := term.GetSize(fd); err == nil {
			fit(width, columns)
		}
	}
	var text strings.Builder
	for _, row := range cells {
		for n, cell := range row {
			if size := utf8.RuneCountInString(cell); size > width[n] {
				cell = string([]rune(cell)[:width[n]-1]) + "…"
			} else if n < len(row)-1 {
				cell += strings.Repeat(" ", width[n]-size)
			}
			if n > 0 {
				text.WriteString(between)
			}
			text.WriteString(cell)
		}
		text.WriteByte('\n')
	}
	if _, err := io.WriteString(out, text.String()); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

const (
	between    = "  " // two columns
	leastWidth = 8    // of a column that is cut: less says nothing
)

// fit makes columns narrower, the widest first, until a line has room, or nothing more helps.
func fit(width []int, columns int) {
	total := len(between) * (len(width) - 1)
	for _, w := range width {
		total += w
	}
	for ; total > columns; total-- {
		widest := 0
		for n, w := range width {
			if w >= width[widest] { // of two the later one: ids come first, remarks last
				widest = n
			}
		}
		if width[widest] <= leastWidth {
			return
		}
		width[widest]--
	}
}
