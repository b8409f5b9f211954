package freeze

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// What guard and holder say to each other, a line each.
const (
	saySynced = "synced" // and about to freeze
	sayFrozen = "frozen"
	sayDone   = "done"
	sayThawed = "thawed: "   // and why
	sayFailed = "failed: "   // nothing is frozen, and why
	sayStuck  = "not thawed" // and why
)

const thawedAsAsked = sayThawed + "asked to"

// Guard holds one file system frozen: the whole work of the freeze guard process. While the freeze
// lasts it writes nothing but its pipe.
type Guard struct {
	path   string
	limit  time.Duration
	sync   func(path string) error // before the freeze and its limit: it may take minutes, and stops no writer
	freeze func(path string) error
	thaw   func(path string) error
}

// NewGuard makes a guard of the file system that path is on. The limit counts from just before the
// freeze on.
func NewGuard(path string, limit time.Duration) Guard {
	return Guard{path: path, limit: limit, sync: Sync, freeze: Freeze, thaw: Thaw}
}

// Signals subscribes to the signals that a guard thaws on. SIGKILL and SIGSTOP cannot be
// caught: the holder has its own clock for these. SIGPIPE is ignored, so that a vanished parent
// cannot end the guard before the thaw.
func Signals() <-chan os.Signal {
	signal.Ignore(syscall.SIGPIPE)
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGABRT, syscall.SIGALRM,
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGXCPU)
	return ch
}

// Run syncs, says "synced", freezes, says "frozen" on out, and thaws when in says "done" or ends,
// on a signal, or at the limit. The error is for the exit code only: everything worth knowing was
// said on out.
func (g Guard) Run(in io.Reader, out io.Writer, signals <-chan os.Signal) error {
	asked := make(chan string, 1)
	go func() { // ends with in, at the latest with this process
		line, _ := bufio.NewReader(in).ReadString('\n')
		asked <- line
	}()
	err := g.sync(g.path)
	select {
	case <-asked:
		err = errors.Join(err, errors.New("the parent process is gone"))
	case s := <-signals:
		err = errors.Join(err, fmt.Errorf("signal %v", s))
	default:
	}
	if err != nil {
		fmt.Fprintf(out, "%s%v\n", sayFailed, err)
		return err
	}
	fmt.Fprintln(out, saySynced)
	limit := time.NewTimer(g.limit)
	defer limit.Stop()
	if err := g.freeze(g.path); err != nil {
		fmt.Fprintf(out, "%s%v\n", sayFailed, err)
		return err
	}
	why := g.hold(out, asked, signals, limit.C)
	if err := g.thaw(g.path); err != nil {
		if errors.Is(err, ErrNotFrozen) {
			fmt.Fprintf(out, "%sby someone else, before the guard did\n", sayThawed)
			return err
		}
		fmt.Fprintf(out, "%s: %v\n", sayStuck, err)
		return err
	}
	fmt.Fprintf(out, "%s%s\n", sayThawed, why)
	return nil
}

// hold returns the reason to thaw.
func (g Guard) hold(out io.Writer, asked <-chan string, signals <-chan os.Signal, limit <-chan time.Time) string {
	if _, err := fmt.Fprintln(out, sayFrozen); err != nil {
		return "nobody listens"
	}
	select {
	case line := <-asked:
		if line == sayDone+"\n" {
			return "asked to"
		}
		return "the parent process is gone"
	case s := <-signals:
		return "signal " + s.String()
	case <-limit:
		return fmt.Sprintf("the limit of %v passed", g.limit)
	}
}
