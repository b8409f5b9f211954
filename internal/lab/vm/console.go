package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"sync"
)

// console is the serial line of one machine, over all its boots: a file for people, and the text of the boot that is going on for those who wait.
type console struct {
	path string
	file *os.File

	mu      sync.Mutex
	text    []byte        // since the last power on
	changed chan struct{} // closed and replaced when text grows
}

func newConsole(path string) (*console, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	return &console{path: path, file: file, changed: make(chan struct{})}, nil
}

// Write takes what the machine says. It never fails, since qemu would stop talking: a full disk shows in the file only.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.file.Write(p)
	c.text = append(c.text, p...)
	close(c.changed)
	c.changed = make(chan struct{})
	return len(p), nil
}

func (c *console) close() error {
	if err := c.file.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// clear forgets the text of the boot before.
func (c *console) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text = nil
}

// escapes are what systemd colours its lines with.
var escapes = regexp.MustCompile(`\x1b\[[0-9;?]*[a-zA-Z]|\r`)

func (c *console) read() (string, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(escapes.ReplaceAll(c.text, nil)), c.changed
}

// wait returns the first match of pattern in what the machine has said since its last power on. ended is closed when it says no more.
func (c *console) wait(ctx context.Context, pattern *regexp.Regexp, ended <-chan struct{}) (string, error) {
	for {
		over := false
		select {
		case <-ended: // looked at before the text: no more comes after it
			over = true
		default:
		}
		text, changed := c.read()
		if match := pattern.FindString(text); match != "" {
			return match, nil
		}
		if over {
			return "", fmt.Errorf("wait for %q on the console %s, which ends with %q: %w", pattern, c.path, lastLine(text), errNoPower)
		}
		select {
		case <-changed:
		case <-ended:
		case <-ctx.Done():
			return "", fmt.Errorf("wait for %q on the console %s, which ends with %q: %w", pattern, c.path, lastLine(text), context.Cause(ctx))
		}
	}
}

func lastLine(text string) string {
	const most = 200
	return text[max(0, len(text)-most):]
}
