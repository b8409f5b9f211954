package disks

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/boot/tree"
	"ebs-release/internal/exit"
	"ebs-release/internal/output"
)

// worker is a child process that touches a disk: opens, checks, mounts, reads, unmounts. A disk
// that stops answering holds whoever does one of these, and the kernel does not even let it be
// killed. So `up` does none of them itself, nor does a verb that looks at the volume once: they
// give the child up when the time is over, and can go on, or end. The child inherits no lock, and
// lets go of what it has when the disk answers again.
type worker struct {
	log      *slog.Logger
	process  *os.Process
	requests *os.File
	answers  chan diskAnswer // closed with the child's standard output
	ended    chan struct{}   // closed when the child is gone
	said     *output.Ends    // on its standard error; to be read when it is gone
}

func startWorker(log *slog.Logger) (*worker, error) {
	stdin, requests, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	answers, stdout, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, stdin.Close(), requests.Close())
	}
	w := &worker{log: log, requests: requests, answers: make(chan diskAnswer), ended: make(chan struct{}), said: &output.Ends{}}
	cmd := exec.Command("/proc/self/exe", Verb) // not CommandContext: nobody must have to wait for it
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = "/", stdin, stdout, w.said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C is for `up`, which ends the work in order
	err = cmd.Start()
	_, _ = stdin.Close(), stdout.Close()
	if err != nil {
		_, _ = requests.Close(), answers.Close()
		return nil, fmt.Errorf("start the process that works on disks: %w", err)
	}
	w.process = cmd.Process
	go func() { // both end with the child
		_ = cmd.Wait()
		close(w.ended)
	}()
	go w.read(answers)
	return w, nil
}

func (w *worker) read(answers io.ReadCloser) {
	defer func() { _ = answers.Close() }()
	defer close(w.answers)
	for lines := json.NewDecoder(answers); ; {
		var a diskAnswer
		if lines.Decode(&a) != nil {
			return
		}
		if a.Log != "" {
			w.log.Log(context.Background(), a.Level, a.Log)
			continue
		}
		select {
		case w.answers <- a:
		case <-w.ended:
			return
		}
	}
}

// do asks for one thing. After an end of ctx nothing more can be asked.
func (w *worker) do(ctx context.Context, r diskRequest) (diskAnswer, error) {
	if err := ctx.Err(); err != nil {
		return diskAnswer{}, err
	}
	if end, ok := ctx.Deadline(); ok {
		r.Limit = time.Until(end) * 9 / 10   // its own words are better than that the time was up
		_ = w.requests.SetWriteDeadline(end) // a document may be longer than a pipe, and the child not read it
	}
	switch err := json.NewEncoder(w.requests).Encode(r); {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return diskAnswer{}, w.noEnd(r, context.DeadlineExceeded)
	case err != nil:
		return diskAnswer{}, w.lost(r)
	}
	var late <-chan time.Time
	for ended := ctx.Done(); ; {
		select {
		case a, ok := <-w.answers:
			if !ok {
				return diskAnswer{}, w.lost(r)
			}
			return a, a.err()
		case <-ended:
			ended, late = nil, time.After(answerGrace)
		case <-late:
			return diskAnswer{}, w.noEnd(r, ctx.Err())
		}
	}
}

func (w *worker) noEnd(r diskRequest, why error) error {
	return fmt.Errorf("%s %s: it does not come to an end (process %d): %w", r.Do, cmp.Or(r.Device, r.Point), w.process.Pid, why)
}

// answerGrace is how long a child that was told to give up may take to say so, on a busy machine.
const answerGrace = time.Second

// err is what the child found, with the meaning that it has for a boot.
func (a diskAnswer) err() error {
	if a.Error == "" {
		return nil
	}
	err := advice.Parse(a.Error)
	if a.Code != 0 {
		err = exit.With(a.Code, err)
	}
	for _, m := range tree.Kinds() {
		if a.Meaning == m.Error() {
			return tree.Means(err, m)
		}
	}
	if a.Late {
		return tree.Means(err, context.DeadlineExceeded)
	}
	return err
}

func (w *worker) lost(r diskRequest) error {
	select {
	case <-w.ended:
		return fmt.Errorf("%s: the process that works on disks ended: %s", r.Do, w.said)
	case <-time.After(workerGrace):
		return fmt.Errorf("%s: the process that works on disks says nothing more", r.Do)
	}
}

// workerGrace is how long a child may take to let go: to unmount, or e2fsck to finish what it
// writes.
const workerGrace = 5 * time.Second

// close lets the child end, which unmounts what it prepared and nobody placed.
func (w *worker) close(ctx context.Context) error {
	_ = w.requests.Close()
	clock := time.NewTimer(workerGrace)
	defer clock.Stop()
	select {
	case <-w.ended:
		return nil
	case <-ctx.Done():
	case <-clock.C:
	}
	_ = w.process.Kill() // the kernel may not let it
	select {
	case <-w.ended:
		return nil
	case <-time.After(killGrace):
		return fmt.Errorf("process %d, which works on the disk, cannot be ended: the disk does not answer", w.process.Pid)
	}
}

// killGrace is how long a process that is killed may take to be gone, on a busy machine.
const killGrace = time.Second

// askChild starts a child for one request, and ends it after the answer.
func askChild(ctx context.Context, log *slog.Logger, r diskRequest) (diskAnswer, error) {
	w, err := startWorker(log)
	if err != nil {
		return diskAnswer{}, err
	}
	a, err := w.do(ctx, r)
	return a, errors.Join(err, onlyAlone(err, w.close(ctx)))
}

// onlyAlone is the second error, when there is no first one that says the same better.
func onlyAlone(first, second error) error {
	if first != nil {
		return nil
	}
	return second
}
