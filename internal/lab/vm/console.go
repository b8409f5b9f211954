package vm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"regexp"
	"sync"
)

// serial is what one serial port of a machine said, over all boots: a file for people, and the text
// of the current boot for those who wait.
type serial struct {
	path string
	file *os.File

	mu      sync.Mutex
	text    []byte        // since the last power on
	changed chan struct{} // closed and replaced when text grows
}

func newSerial(path string) (*serial, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	return &serial{path: path, file: file, changed: make(chan struct{})}, nil
}

// Write takes what the machine says. It never fails, since qemu would stop talking: a full disk
// shows in the file only.
func (s *serial) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file.Write(p)
	s.text = append(s.text, p...)
	close(s.changed)
	s.changed = make(chan struct{})
	return len(p), nil
}

func (s *serial) close() error {
	if err := s.file.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// clear forgets the text of the boot before.
func (s *serial) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = nil
}

// escapes are what systemd colours its lines with.
var escapes = regexp.MustCompile(`\x1b\[[0-9;?]*[a-zA-Z]|\r`)

func (s *serial) read() (string, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(escapes.ReplaceAll(s.text, nil)), s.changed
}

// mark waits for a whole line in what the machine has said since its last power on. ended is closed
// when it says no more.
func (s *serial) mark(ctx context.Context, line string, ended <-chan struct{}) error {
	_, err := s.wait(ctx, markPattern(line), ended)
	return err
}

func (s *serial) marked(line string) bool {
	text, _ := s.read()
	return markPattern(line).MatchString(text)
}

func markPattern(line string) *regexp.Regexp {
	return regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(line) + "\n")
}

// wait returns the first match of pattern in what the machine has said since its last power on.
// ended is closed when it says no more.
func (s *serial) wait(ctx context.Context, pattern *regexp.Regexp, ended <-chan struct{}) (string, error) {
	for {
		over := false
		select {
		case <-ended: // looked at before the text: no more comes after it
			over = true
		default:
		}
		text, changed := s.read()
		if match := pattern.FindString(text); match != "" {
			return match, nil
		}
		if over {
			return "", fmt.Errorf("wait for %q in %s, which ends with %q: %w", pattern, s.path, lastLine(text), errNoPower)
		}
		select {
		case <-changed:
		case <-ended:
		case <-ctx.Done():
			return "", fmt.Errorf("wait for %q in %s, which ends with %q: %w", pattern, s.path, lastLine(text), context.Cause(ctx))
		}
	}
}

func lastLine(text string) string {
	const most = 200
	return text[max(0, len(text)-most):]
}

// ConsoleFile keeps what the machine wrote to its console, over all boots.
func (m *Machine) ConsoleFile() string { return m.dir + ".console" }

// Console is what the machine has written to its console since its last power on, without colours.
func (m *Machine) Console() string {
	text, _ := m.console.read()
	return text
}

// WaitConsole waits until a line on the console, since the last power on, matches, and returns the
// match. It ends early when the machine goes off.
func (m *Machine) WaitConsole(ctx context.Context, pattern *regexp.Regexp) (string, error) {
	return m.console.wait(ctx, pattern, m.Off())
}

// MarksFile keeps the marks of all boots.
func (m *Machine) MarksFile() string { return m.dir + ".marks" }

// WaitMark waits for a mark, a whole line on MarkPort since the last power on. It ends early when
// the machine goes off.
func (m *Machine) WaitMark(ctx context.Context, line string) error {
	ended := m.Off()
	if b := m.current(); b != nil {
		ended = b.marked
	}
	return m.marks.mark(ctx, line, ended)
}

// Marked says whether the mark has come since the last power on, also when the machine has gone
// off.
func (m *Machine) Marked(line string) bool { return m.marks.marked(line) }

func orDefault(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

func digest(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }

// machineID is what /etc/machine-id would hold after the first boot.
func machineID(id string) string { return digest(id)[:32] }
