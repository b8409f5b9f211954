// Package host is the lab's machines: an instance is a process tree in namespaces of its own, with
// a root file system, a network address and disks.
//
// A Network is the place where hosts stand: a switch, and a directory that only this lab sees.
// Nothing of it outlives the process, however that ends: the namespaces belong to a thread of it,
// and the hosts' first processes die with that thread.
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

// Network holds the hosts of one lab.
type Network struct {
	subnet    netip.Prefix
	dir       string // the directory that only the network's thread sees (a tmpfs over a directory of the lab)
	consoles  string
	thread    *thread
	namespace *os.File
	ports     atomic.Int64
}

// NewNetwork makes an empty network below dir (an absolute path), with a switch that has the first
// address of subnet. Networks do not see each other: two may use the same addresses.
func NewNetwork(ctx context.Context, dir string, subnet netip.Prefix) (*Network, error) {
	n := &Network{subnet: subnet.Masked(), dir: filepath.Join(dir, "network"), consoles: filepath.Join(dir, "console")}
	if err := errors.Join(os.MkdirAll(n.dir, 0o755), os.MkdirAll(n.consoles, 0o755)); err != nil {
		return nil, err
	}
	var err error
	if n.thread, err = newThread(n.setup); err != nil {
		return nil, fmt.Errorf("make a network: %w", err)
	}
	if err := n.ip(ctx, n.namespace, nil, "link add "+bridge+" address "+bridgeMAC+" type bridge", "link set lo up",
		fmt.Sprintf("addr add %s/%d dev %s", n.Gateway(), n.subnet.Bits(), bridge), "link set "+bridge+" up"); err != nil {
		n.Close()
		return nil, fmt.Errorf("make a network: %w", err)
	}
	return n, nil
}

// setup runs on the network's thread.
func (n *Network) setup() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare (are we root?): %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := dropDisks(); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", n.dir, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", n.dir, err)
	}
	var err error
	n.namespace, err = os.Open("/proc/thread-self/ns/net")
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
				return fmt.Errorf("unmount %s for the network: %w", m.point, err)
			}
		}
	}
	return nil
}

// Gateway is the network's own address: the first one of the subnet.
func (n *Network) Gateway() netip.Addr { return n.subnet.Addr().Next() }

// Namespace is the network's own, and the name of the bridge in it that all hosts are
// connected to: whatever else shall be in their network is connected there. The network closes the
// file.
func (n *Network) Namespace() (namespace *os.File, bridgeName string) { return n.namespace, bridge }

// Listen listens on a port of the network's own address, for the hosts to reach.
func (n *Network) Listen(port int) (net.Listener, error) {
	return listen(n.namespace, netip.AddrPortFrom(n.Gateway(), uint16(port)))
}

// Dial connects to an address inside the network.
func (n *Network) Dial(ctx context.Context, address string) (net.Conn, error) {
	var conn net.Conn
	err := netns.Do(n.namespace, func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp4", address)
		return err
	})
	return conn, err
}

// Close takes the network down, and all hosts that still stand in it.
func (n *Network) Close() error {
	n.thread.close()
	return n.namespace.Close()
}

// Path is where the machine finds a file of the network's directory, which is memory that goes with
// the network. Layers of hosts stand there: a directory of the machine's root file system cannot be
// one, since that root is the lowest layer.
func (n *Network) Path(elem ...string) string {
	return fmt.Sprintf("/proc/%d/task/%d/root%s", os.Getpid(), n.thread.id, filepath.Join(append([]string{n.dir}, elem...)...))
}

// start starts cmd on the network's thread, in the network namespace ns. It dies with the network.
func (n *Network) start(cmd *exec.Cmd, ns *os.File) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	return n.thread.do(func() error { return netns.Do(ns, cmd.Start) })
}

// ip runs commands of ip(8) in the network namespace ns. A peer namespace is /proc/self/fd/3 to
// them.
func (n *Network) ip(ctx context.Context, ns, peer *os.File, commands ...string) error {
	cmd := exec.CommandContext(ctx, "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	var talk strings.Builder
	cmd.Stdout, cmd.Stderr = io.Discard, &talk
	if peer != nil {
		cmd.ExtraFiles = []*os.File{peer}
	}
	err := n.start(cmd, ns)
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
