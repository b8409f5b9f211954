package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"ebs-release/internal/words"

	"golang.org/x/term"
)

// watch shows the status until ctx ends, which is its normal end. On a terminal it draws over what
// it drew before; otherwise it prints what changed. An error is shown like a status, and asked
// again.
func (p *program) watch(ctx context.Context, source statusSource, interval time.Duration) error {
	s := screen{out: p.stdout}
	if fd, ok := words.Terminal(p.stdout); ok {
		s.size = func() (int, int, error) { return term.GetSize(fd) }
	}
	if s.size != nil {
		defer fmt.Fprintln(p.stdout) // the shell's prompt comes below
	}
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	for {
		report, err := source.look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var text bytes.Buffer
		if err == nil {
			err = printStatus(&text, report)
		}
		if err != nil {
			text.Reset()
			fmt.Fprintf(&text, "cannot tell: %s\n", words.OneLine(err))
		}
		if err := s.show(text.String(), time.Now()); err != nil {
			return fmt.Errorf("write the status: %w", err)
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// screen is what watch draws on.
type screen struct {
	out  io.Writer
	size func() (width, height int, err error) // nil: not a terminal
	last string
}

// Control sequences of every terminal since the VT100 (ECMA-48).
const (
	home      = "\x1b[H"
	clearLine = "\x1b[K" // from the cursor to its end
	clearRest = "\x1b[J" // of the screen
)

func (s *screen) show(text string, now time.Time) error {
	at := now.UTC().Format(time.RFC3339)
	if s.size == nil {
		if text == s.last {
			return nil
		}
		s.last = text
		_, err := fmt.Fprintf(s.out, "%s\n%s\n", at, text)
		return err
	}
	width, height, err := s.size()
	if err != nil || width < 1 || height < 1 {
		width, height = 80, 24
	}
	lines := strings.Split(strings.TrimRight(at+"\n"+text, "\n"), "\n")
	if more := len(lines) - height; more > 0 { // those behind come first
		lines = append(lines[:height-1], fmt.Sprintf("… and %d more", more+1))
	}
	var b strings.Builder
	b.WriteString(home)
	for i, line := range lines {
		if runes := []rune(line); len(runes) > width {
			line = string(runes[:width])
		}
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(line + clearLine)
	}
	b.WriteString(clearRest)
	_, err = io.WriteString(s.out, b.String())
	return err
}
