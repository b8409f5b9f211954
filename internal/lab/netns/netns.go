// Package netns makes network namespaces, and runs functions in them.
package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// own is the network namespace of the thread that opens it.
const own = "/proc/thread-self/ns/net"

// New makes a network namespace, in which nothing is up. It lives as long as the file, its sockets
// and its processes.
func New() (ns *os.File, err error) {
	err = abroad(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace (are we root?): %w", err)
		}
		ns, err = os.Open(own)
		return err
	})
	return ns, err
}

// Do runs f with the calling thread in the network namespace ns, and brings the thread back.
// Sockets and processes that f makes stay in ns.
func Do(ns *os.File, f func() error) error {
	return abroad(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// abroad runs f, which may leave the thread's network namespace, and brings the thread back.
func abroad(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open(own)
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
