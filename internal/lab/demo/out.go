package demo

import (
	"bytes"
	"fmt"
	"io"
	"sync"
)

// shared is a writer for several goroutines.
type shared struct {
	mu  sync.Mutex
	out io.Writer
}

func (w *shared) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(p)
}

// indented shows the lines of a program set off from the demo's own.
type indented struct {
	out io.Writer

	mu   sync.Mutex
	rest []byte
}

func (w *indented) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest = append(w.rest, p...)
	for {
		line, rest, found := bytes.Cut(w.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		w.rest = rest
		if err := w.show(line); err != nil {
			return 0, err
		}
	}
}

// flush shows a last line without an end.
func (w *indented) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.rest) > 0 {
		w.show(w.rest)
	}
}

func (w *indented) show(line []byte) error {
	if len(line) > 0 {
		line = append([]byte("        "), line...)
	}
	_, err := fmt.Fprintf(w.out, "%s\n", line)
	return err
}
