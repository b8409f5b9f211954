package serve

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"ebs-release/internal/words"
)

// longestLine is of net/http, in bytes: the stack of a handler that failed.
const longestLine = 4 << 10

// lines is a log that holds nobody up and cannot be filled by clients: more than some lines in a
// minute, or than its reader takes, are counted only.
type lines struct {
	w    io.Writer
	most int // in a minute
	next chan string
	left atomic.Int64 // that were not written, and not told yet
}

func newLines(w io.Writer, most int) *lines {
	return &lines{w: w, most: most, next: make(chan string, most)}
}

// start begins to write; the function that it returns writes what is left, for a second at most,
// and ends it.
func (l *lines) start() (end func()) {
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		var since time.Time
		written := 0
		write := func(line string) {
			if now := time.Now(); now.Sub(since) > time.Minute {
				l.tell()
				since, written = now, 0
			}
			if written++; written > l.most {
				l.left.Add(1)
				return
			}
			fmt.Fprintln(l.w, line)
		}
		for {
			select {
			case line := <-l.next:
				write(line)
				continue
			default:
			}
			select {
			case line := <-l.next:
				write(line)
			case <-stop:
				l.tell()
				return
			}
		}
	}()
	return func() {
		close(stop)
		select {
		case <-ended:
		case <-time.After(time.Second): // nobody reads what the other end of w gets
		}
	}
}

func (l *lines) tell() {
	if left := l.left.Swap(0); left > 0 {
		fmt.Fprintf(l.w, "%d more lines were left out\n", left)
	}
}

func (l *lines) say(format string, args ...any) {
	select {
	case l.next <- fmt.Sprintf(format, args...):
	default:
		l.left.Add(1)
	}
}

// Write takes lines of net/http: what went wrong with the listener, or in a handler.
func (l *lines) Write(p []byte) (int, error) {
	l.say("%s", words.OneLine(errors.New(string(p[:min(len(p), longestLine)]))))
	return len(p), nil
}
