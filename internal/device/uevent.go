package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	smithytime "github.com/aws/smithy-go/time"
	"golang.org/x/sys/unix"
)

// uevents is a socket on which the kernel tells of disks that come and go. The zero value has none
// and only waits.
type uevents struct {
	socket *os.File
	stop   func() bool
}

// listen opens the socket. The kernel's messages come in multicast group 1, udev's in group 2: udev
// is not needed.
func listen(ctx context.Context) (uevents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return uevents{}, fmt.Errorf("open the uevent socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		_ = unix.Close(fd)
		return uevents{}, fmt.Errorf("bind the uevent socket: %w", err)
	}
	socket := os.NewFile(uintptr(fd), "uevents")
	// The end of ctx ends a read at once.
	stop := context.AfterFunc(ctx, func() { _ = socket.SetReadDeadline(time.Unix(1, 0)) }) // fails on a closed one only
	return uevents{socket: socket, stop: stop}, nil
}

func (u uevents) close() {
	if u.socket != nil {
		u.stop()
		_ = u.socket.Close()
	}
}

// wait returns when a disk came or changed, or pause is over, whichever is first. The error is
// ctx's.
func (u uevents) wait(ctx context.Context, pause time.Duration) error {
	if u.socket == nil {
		return smithytime.SleepWithContext(ctx, pause)
	}
	if err := u.socket.SetReadDeadline(time.Now().Add(pause)); err != nil {
		return err
	}
	buf := make([]byte, 8192)
	for ctx.Err() == nil {
		n, err := u.socket.Read(buf)
		switch {
		case errors.Is(err, unix.ENOBUFS): // events were lost: look
			return ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded):
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("read the uevent socket: %w", err)
		case bytes.Contains(buf[:n], []byte("SUBSYSTEM=block")):
			return ctx.Err()
		}
	}
	return ctx.Err()
}
