package freeze

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// syncLimit is how long what is in memory may take to get to the disk, before the freeze: 20 GiB at
// 125 MiB/s take less than 3 minutes.
const syncLimit = 5 * time.Minute

// grace is how much longer than it should take the holder waits for its guard to thaw, before it
// does so itself.
const grace = time.Second

// Holder starts freeze guards, and thaws in place of one that was killed.
type Holder struct {
	Command []string      // the guard: this program and its hidden verb, with the path and limit in it
	Path    string        // any directory on the file system
	Limit   time.Duration // the guard's limit
	Refuse  []Place       // what must not lie on the file system
}

// Hold is a file system that a guard holds frozen. End it with Release, whatever happens.
type Hold struct {
	holder Holder
	guard  *exec.Cmd
	stdin  io.WriteCloser
	lines  <-chan string // what the guard says; closed when it is gone
	since  time.Time
}

// Freeze refuses what must not be frozen, starts a guard, and returns once the file system is
// frozen.
func (h Holder) Freeze(ctx context.Context) (*Hold, error) {
	if err := h.Check(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	guard := exec.Command(h.Command[0], h.Command[1:]...)  // not CommandContext: its SIGKILL would leave the file system frozen
	guard.Dir = "/"                                        // never frozen, see refuse
	guard.Env = []string{}                                 // it needs none, and credentials are none of its business
	guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C at the terminal is for the publisher, which then asks for the thaw
	stdin, err := guard.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start the freeze guard: %w", err)
	}
	stdout, err := guard.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the freeze guard: %w", err)
	}
	hold := &Hold{holder: h, guard: guard, stdin: stdin, since: time.Now()}
	if err := guard.Start(); err != nil {
		return nil, fmt.Errorf("start the freeze guard: %w", err)
	}
	hold.lines = readLines(stdout)

	first, err := hold.next(ctx, syncLimit)
	if err == nil && first == saySynced {
		hold.since = time.Now()
		first, err = hold.next(ctx, h.Limit+grace)
	}
	switch {
	case err != nil:
	case first == sayFrozen:
		return hold, nil
	case strings.HasPrefix(first, sayFailed): // nothing to thaw, and a freeze by someone else is not ours to end
		return nil, errors.Join(fmt.Errorf("freeze %s: %s", h.Path, strings.TrimPrefix(first, sayFailed)), hold.reap())
	default:
		err = fmt.Errorf("the freeze guard said %q", first)
	}
	return nil, fmt.Errorf("freeze %s: %w", h.Path, errors.Join(err, hold.end()))
}

// Release thaws. Its error means that the file system was not frozen all the time, or may still be
// frozen: a snapshot made meanwhile does not count.
func (h *Hold) Release() error {
	_, err := io.WriteString(h.stdin, sayDone+"\n")
	if err != nil {
		err = fmt.Errorf("ask the freeze guard to thaw: %w", err)
	}
	// A disk under load takes its time for what a thaw writes; a guard that was stopped must not take
	// more than the limit.
	said, nextErr := h.next(context.Background(), max(2*grace, h.holder.Limit-h.For()+grace))
	if said == thawedAsAsked {
		if h.reap() != nil { // slow to exit; it has nothing left to do, and the freeze was good
			_ = h.guard.Process.Kill()
		}
		return nil
	}
	if strings.HasPrefix(said, sayThawed) {
		return errors.Join(fmt.Errorf("the freeze of %s did not last: %s", h.holder.Path, said), h.reap())
	}
	if nextErr == nil {
		nextErr = fmt.Errorf("the freeze guard said %q", said)
	}
	err = errors.Join(err, nextErr)
	return fmt.Errorf("thaw %s: %w", h.holder.Path, errors.Join(err, h.end()))
}

// For is how long the file system has been frozen, or is about to be.
func (h *Hold) For() time.Duration { return time.Since(h.since) }

// next returns the next thing that the guard says.
func (h *Hold) next(ctx context.Context, within time.Duration) (string, error) {
	clock := time.NewTimer(within)
	defer clock.Stop()
	select {
	case line, ok := <-h.lines:
		if !ok {
			return "", errors.New("the freeze guard ended and said nothing")
		}
		return line, nil
	case <-clock.C:
		return "", fmt.Errorf("the freeze guard did not answer within %v", within)
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// end makes sure that nothing is frozen any more and the guard is gone, whatever state the guard is
// in; nil means just that. The guard sees its input end and thaws. When it cannot, because it was
// killed, the holder thaws itself. The guard is never killed from here: one that still waits for
// its freeze would leave it behind.
func (h *Hold) end() error {
	_ = h.stdin.Close()
	_ = h.guard.Process.Signal(syscall.SIGCONT) // a stopped guard thaws as well; one that is gone needs none
	clock := time.NewTimer(grace)
	defer clock.Stop()
	thawed := false
	for gone := false; !gone; {
		select {
		case line, ok := <-h.lines:
			thawed = thawed || strings.HasPrefix(line, sayThawed)
			gone = !ok
		case <-clock.C:
			gone = true
		}
	}
	var err error
	if !thawed {
		err = Thaw(h.holder.Path)
		if errors.Is(err, ErrNotFrozen) {
			err = nil
		} else if err != nil {
			err = fmt.Errorf("%s may still be frozen, run `ebs-release thaw`: %w", h.holder.Path, err)
		}
	}
	return errors.Join(err, h.reap())
}

// reap collects the guard. Its exit status says nothing that it did not say in words.
func (h *Hold) reap() error {
	_ = h.stdin.Close()
	gone := make(chan struct{})
	go func() { // ends with the guard
		_ = h.guard.Wait()
		close(gone)
	}()
	clock := time.NewTimer(grace)
	defer clock.Stop()
	select {
	case <-gone:
		return nil
	case <-clock.C:
		return fmt.Errorf("the freeze guard (process %d) has not ended: look whether %s can be written to", h.guard.Process.Pid, h.holder.Path)
	}
}

// readLines ends when the guard's output does. The guard says four lines at most, so the channel
// never blocks it.
func readLines(r io.Reader) <-chan string {
	lines := make(chan string, 5)
	go func() {
		defer close(lines)
		scan := bufio.NewScanner(io.LimitReader(r, 4096))
		for range 5 {
			if !scan.Scan() {
				return
			}
			lines <- scan.Text()
		}
	}()
	return lines
}
