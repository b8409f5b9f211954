package host

import (
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

var errClosed = errors.New("the network is closed")

// thread is one operating system thread in namespaces of its own, which runs one function after the
// other. Namespaces belong to threads, and so does the death signal of the children that it starts
// (PR_SET_PDEATHSIG): they live as long as the thread. It ends with close, or with the process.
type thread struct {
	id    int
	calls chan func()
	quit  chan struct{}
	done  chan struct{}
}

// newThread starts a thread and lets setup give it its namespaces.
func newThread(setup func() error) (*thread, error) {
	t := &thread{calls: make(chan func()), quit: make(chan struct{}), done: make(chan struct{})}
	ready := make(chan error)
	go t.loop(setup, ready)
	return t, <-ready
}

func (t *thread) loop(setup func() error, ready chan<- error) {
	runtime.LockOSThread() // never unlocked: Go ends the thread with the goroutine
	if t.id = unix.Gettid(); t.id == os.Getpid() {
		// The process's first thread never ends, and /proc/PID speaks for it: leave it alone. While
		// it is locked here, the next goroutine gets another one.
		next := make(chan error)
		go t.loop(setup, next)
		err := <-next
		runtime.UnlockOSThread()
		ready <- err
		return
	}
	defer close(t.done)
	err := setup()
	ready <- err
	if err != nil {
		return
	}
	for {
		select {
		case f := <-t.calls:
			f()
		case <-t.quit:
			return
		}
	}
}

// do runs f on the thread and waits for it.
func (t *thread) do(f func() error) error {
	result := make(chan error, 1)
	select {
	case t.calls <- func() { result <- f() }:
		return <-result
	case <-t.done:
		return errClosed
	}
}

// close ends the thread and, with SIGKILL, the children that it started. It is called once.
func (t *thread) close() {
	close(t.quit)
	<-t.done
}
