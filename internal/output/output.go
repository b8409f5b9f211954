// Package output keeps what a child program says within bounds: a disk full of errors, or a
// journal, may be longer than memory.
package output

import (
	"bytes"
	"strings"
	"sync"
)

// endBytes is how much of each end is kept. The reason is in the last lines (ssh, e2fsck) or in the
// first (rsync, a Go panic).
const endBytes = 8 << 10

// Ends is a writer that keeps the first and the last 8 KiB of what is written to it.
type Ends struct {
	mu          sync.Mutex
	first, last []byte
	cut         bool // something between them is lost
}

// Write never fails.
func (e *Ends) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	room := min(len(p), endBytes-len(e.first))
	e.first = append(e.first, p[:room]...)
	rest := p[room:]
	if len(e.last)+len(rest) > endBytes {
		e.cut = true
		rest = rest[max(0, len(rest)-endBytes):]
		e.last = append(e.last[:0], e.last[len(e.last)-min(len(e.last), endBytes-len(rest)):]...)
	}
	e.last = append(e.last, rest...)
	return len(p), nil
}

// String is what was said, without blanks at its ends, and with a line … where something is left
// out.
func (e *Ends) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	between := ""
	if e.cut {
		between = "\n…\n"
	}
	return strings.ToValidUTF8(strings.TrimSpace(string(e.first)+between+string(e.last)), "?")
}

// Cut says whether something is left out of String.
func (e *Ends) Cut() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.cut
}

// Words is the end of what was said, in one line of at most most bytes, for an error.
func (e *Ends) Words(most int) string {
	words := strings.Join(strings.Fields(e.String()), " ")
	if over := len(words) - most; over > 0 {
		words = "…" + strings.ToValidUTF8(words[over:], "")
	}
	return words
}

// lineBytes is how much of a line Lines passes on.
const lineBytes = 8 << 10

// Lines is a writer that passes each line on, without its newline, and keeps none. A line loses
// what comes after 8 KiB.
type Lines struct {
	Each func(line string)
	line []byte
}

// Write never fails.
func (l *Lines) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		part, after, whole := bytes.Cut(rest, []byte("\n"))
		l.line = append(l.line, part[:min(len(part), lineBytes-len(l.line))]...)
		if whole {
			l.End()
		}
		rest = after
	}
	return len(p), nil
}

// End passes a last line on that has no newline.
func (l *Lines) End() {
	if len(l.line) > 0 {
		l.Each(string(l.line))
		l.line = l.line[:0]
	}
}
