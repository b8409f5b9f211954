// Package words is for what a person reads: sizes and counts in words, foreign text that moves no
// terminal, and what a terminal takes. JSON keeps the numbers.
package words

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"golang.org/x/term"
)

// Count is "1 member", "2 members". thing is a regular noun.
func Count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// Bytes is a size in binary units with one decimal: "17 B", "52.7 MiB".
func Bytes(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	size, unit := float64(n)/(1<<10), 0
	const units = "KMGTPE"
	for size >= 1023.95 && unit < len(units)-1 { // what would read 1024.0
		size, unit = size/(1<<10), unit+1
	}
	return fmt.Sprintf("%.1f %ciB", size, units[unit])
}

// Printable makes a space of what moves a terminal or turns the order of a line round, and so of a
// line break. Names of files and processes, tags and the output of other programs are foreign text.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp) {
			return ' '
		}
		return r
	}, text)
}

// OneLine is the text of an error, joined ones and another program's own words included, without
// line breaks and what else moves a terminal.
func OneLine(err error) string {
	if err == nil {
		err = errors.New("")
	}
	var lines []string
	for line := range strings.FieldsFuncSeq(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }) {
		if line = strings.Trim(line, "; \t"); line != "" {
			lines = append(lines, line)
		}
	}
	return Printable(strings.Join(lines, "; "))
}

// Terminal says whether out is a terminal, and its file descriptor.
func Terminal(out io.Writer) (fd int, ok bool) {
	f, ok := out.(interface{ Fd() uintptr })
	if !ok {
		return -1, false
	}
	fd = int(f.Fd())
	return fd, term.IsTerminal(fd)
}

// Escapes says whether out is a terminal that follows escape sequences, by what $TERM says of it. A
// dumb one (an editor's, a console of a build) shows them as they are.
func Escapes(out io.Writer, terminal string) bool {
	_, ok := Terminal(out)
	return ok && terminal != "" && terminal != "dumb"
}
