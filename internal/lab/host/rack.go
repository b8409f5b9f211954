// Package host is the lab's machines: an instance is a process tree in namespaces of its own, with
// a root file system, a network address and disks.
//
// A Rack is the place where hosts stand: a switch, and a directory that only this lab sees. Nothing
// of it outlives the process, however that ends: the namespaces belong to a thread of it, and the
// hosts' first processes die with that thread.
package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"ebs-release/internal/lab/netns"
)

const bridge = "switch"

// bridgeMAC is fixed: a bridge that was given no address takes the lowest of its ports', which
// changes as hosts come and go, and then the hosts talk to an address that nobody has any more, for
// seconds, until they ask again.
const bridgeMAC = "02:eb:5e:00:00:01"

// Rack holds the hosts of one lab.
type Rack struct {
	subnet   netip.Prefix
	dir      string // the directory that only the rack's thread sees (a tmpfs over a directory of the lab)
	consoles string
	thread   *thread
	network  *os.File
	ports    atomic.Int64
}

// NewRack makes an empty rack below dir (an absolute path), with a switch that has the first
// address of subnet. Racks do not see each other: two may use the same addresses.
func NewRack(ctx context.Context, dir string, subnet netip.Prefix) (*Rack, error) {
	r := &Rack{subnet: subnet.Masked(), dir: filepath.Join(dir, "rack"), consoles: filepath.Join(dir, "console")}
	if err := errors.Join(os.MkdirAll(r.dir, 0o755), os.MkdirAll(r.consoles, 0o755)); err != nil {
		return nil, err
	}
	var err error
	if r.thread, err = newThread(r.setup); err != nil {
		return nil, fmt.Errorf("make a rack: %w", err)
	}
	if err := r.ip(ctx, r.network, nil, "link add "+bridge+" address "+bridgeMAC+" type bridge", "link set lo up",
		fmt.Sprintf("addr add %s/%d dev %s", r.Gateway(), r.subnet.Bits(), bridge), "link set "+bridge+" up"); err != nil {
		r.Close()
		return nil, fmt.Errorf("make a rack: %w", err)
	}
	return r, nil
}

// setup runs on the rack's thread.
func (r *Rack) setup() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare (are we root?): %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := dropDisks(); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", r.dir, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", r.dir, err)
	}
	var err error
	r.network, err = os.Open("/proc/thread-self/ns/net")
	return err
}

// dropDisks unmounts what is mounted from loop devices, here only: a mount namespace begins as a
// copy, and a copy of someone else's mount would keep his device in use after he has unmounted it.
// Read-only images (squashfs) stay: programs may come from there.
func dropDisks() error {
	table, err := readMounts("thread-self")
	if err != nil {
		return err
	}
	for _, m := range table {
		if m.onLoop && m.point != "/" && m.fstype != "squashfs" {
			err := unix.Unmount(m.point, unix.MNT_DETACH)
			if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: it went with the one it stood on
				return fmt.Errorf("unmount %s in the rack: %w", m.point, err)
			}
		}
	}
	return nil
}

// Gateway is the rack's own address: the first one of the subnet.
func (r *Rack) Gateway() netip.Addr { return r.subnet.Addr().Next() }

// Network is the rack's network namespace, and the name of the bridge in it that all hosts are
// connected to: whatever else shall be in their network is connected there. The rack closes the
// file.
func (r *Rack) Network() (namespace *os.File, bridgeName string) { return r.network, bridge }

// Listen listens on a port of the rack's own address, for the hosts to reach.
func (r *Rack) Listen(port int) (net.Listener, error) {
	return listen(r.network, netip.AddrPortFrom(r.Gateway(), uint16(port)))
}

// Dial connects to an address inside the rack.
func (r *Rack) Dial(ctx context.Context, address string) (net.Conn, error) {
	var conn net.Conn
	err := netns.Do(r.network, func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp4", address)
		return err
	})
	return conn, err
}

// Close takes the rack down, and all hosts that still stand in it.
func (r *Rack) Close() error {
	r.thread.close()
	return r.network.Close()
}

// Path is where the machine finds a file of the rack's directory, which is memory that goes with
// the rack. Layers of hosts stand there: a directory of the machine's root file system cannot be
// one, since that root is the lowest layer.
func (r *Rack) Path(elem ...string) string {
	return fmt.Sprintf("/proc/%d/task/%d/root%s", os.Getpid(), r.thread.id, filepath.Join(append([]string{r.dir}, elem...)...))
}

// start starts cmd on the rack's thread, in the network namespace ns. It dies with the rack.
func (r *Rack) start(cmd *exec.Cmd, ns *os.File) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	return r.thread.do(func() error { return netns.Do(ns, cmd.Start) })
}

// ip runs commands of ip(8) in the network namespace ns. A peer namespace is /proc/self/fd/3 to
// them.
func (r *Rack) ip(ctx context.Context, ns, peer *os.File, commands ...string) error {
	cmd := exec.CommandContext(ctx, "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	var talk strings.Builder
	cmd.Stdout, cmd.Stderr = io.Discard, &talk
	if peer != nil {
		cmd.ExtraFiles = []*os.File{peer}
	}
	err := r.start(cmd, ns)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(commands, "; ip "), err, strings.TrimSpace(talk.String()))
	}
	return nil
}

func listen(ns *os.File, address netip.AddrPort) (net.Listener, error) {
	var l net.Listener
	err := netns.Do(ns, func() (err error) {
		l, err = net.Listen("tcp4", address.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen inside the lab: %w", err)
	}
	return l, nil
}
