package host

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

var errClosed = errors.New("the rack is closed")

// thread is one operating system thread in namespaces of its own, which runs one function after the other. Namespaces belong to threads, and so does the
// death signal of the children that it starts (PR_SET_PDEATHSIG): they live as long as the thread. It ends with close, or with the process.
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
		// The process's first thread never ends, and /proc/PID speaks for it: leave it alone. While it is locked here, the next goroutine gets another one.
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

// inNetwork runs f with the calling thread in the network namespace ns, and brings the thread back.
func inNetwork(ns *os.File, f func() error) error {
	return abroad(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// newNetwork makes a network namespace. It lives as long as the file, its sockets and its processes.
func newNetwork() (ns *os.File, err error) {
	err = abroad(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return ns, err
}

// abroad runs f, which may leave the thread's network namespace, and brings the thread back.
func abroad(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("leave network namespace: %w", back)) // the thread stays locked, so that nobody else runs on it
	}
	runtime.UnlockOSThread()
	return err
}
