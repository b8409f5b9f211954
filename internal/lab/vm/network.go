package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"time"

	"ebs-release/internal/lab/child"
	"ebs-release/internal/lab/netns"
	"ebs-release/internal/output"

	"golang.org/x/sys/unix"
)

// Switch is where machines plug their network cable in: a bridge in a network namespace of the lab.
type Switch struct {
	Namespace *os.File     // /proc/…/ns/net, opened
	Bridge    string       // name of the bridge in it
	Gateway   netip.Prefix // the bridge's own address, with the length of the subnet: 10.0.0.1/16
}

// tap makes a network device and plugs it into the bridge. It lives as long as the file, and as
// qemu, which gets the file: nothing to clean up.
func (s Switch) tap() (*os.File, error) {
	var tap *os.File
	err := netns.Do(s.Namespace, func() (err error) {
		tap, err = s.makeTap()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("network device on %s: %w", s.Bridge, err)
	}
	return tap, nil
}

func (s Switch) makeTap() (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	tap := os.NewFile(uintptr(fd), "tap")
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(err, tap.Close())
	}
	defer unix.Close(socket)
	device, err := unix.NewIfreq("vm%d") // the kernel picks the number
	if err != nil {
		return nil, errors.Join(err, tap.Close())
	}
	device.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, device); err != nil {
		return nil, errors.Join(fmt.Errorf("make tap: %w", err), tap.Close())
	}
	bridge, err := unix.NewIfreq(s.Bridge)
	if err != nil {
		return nil, errors.Join(err, tap.Close())
	}
	index, err := unix.NewIfreq(device.Name())
	if err != nil {
		return nil, errors.Join(err, tap.Close())
	}
	err = unix.IoctlIfreq(socket, unix.SIOCGIFINDEX, index)
	if err == nil {
		bridge.SetUint32(index.Uint32())
		err = unix.IoctlIfreq(socket, unix.SIOCBRADDIF, bridge)
	}
	if err == nil {
		device.SetUint16(unix.IFF_UP)
		err = unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, device)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("plug %s into the bridge %s: %w", device.Name(), s.Bridge, err), tap.Close())
	}
	return tap, nil
}

// mac is a locally administered address that follows from the machine's: 02:00 and its four bytes.
func mac(address netip.Addr) string {
	b := address.As4()
	return fmt.Sprintf("02:00:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3])
}

// Metadata is the instance metadata service of all machines on a switch, at its real address. It
// knows a machine by the address that it calls from.
type Metadata struct {
	sw     Switch
	server *http.Server
}

const metadataAddress = "169.254.169.254"

// ServeMetadata answers http://169.254.169.254/ on the switch. Machines send what is not for their
// subnet to the gateway, which is the switch's namespace, and there the address is local. handler
// says who answers a machine with this address, nil for nobody. Close ends it.
func (s Switch) ServeMetadata(ctx context.Context, handler func(machine netip.Addr) http.Handler) (*Metadata, error) {
	if err := s.ip(ctx, "addr", "replace", metadataAddress+"/32", "dev", s.Bridge); err != nil {
		return nil, fmt.Errorf("metadata service: %w", err)
	}
	var listener net.Listener
	err := netns.Do(s.Namespace, func() (err error) {
		listener, err = net.Listen("tcp4", metadataAddress+":80")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("metadata service: %w", err)
	}
	serve := func(w http.ResponseWriter, r *http.Request) {
		caller, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		h := handler(caller.Addr().Unmap())
		if h == nil {
			http.Error(w, "no machine has the address "+caller.Addr().String(), http.StatusNotFound)
			return
		}
		h.ServeHTTP(w, r)
	}
	m := &Metadata{sw: s, server: &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(serve)}}
	go m.server.Serve(listener) // ends with Close
	return m, nil
}

// Close ends the service.
func (m *Metadata) Close() error { return m.server.Close() }

// ip runs ip(8) in the switch's namespace.
func (s Switch) ip(ctx context.Context, arguments ...string) error {
	cmd := exec.CommandContext(ctx, "ip", arguments...)
	var talk output.Ends
	cmd.Stdout, cmd.Stderr = &talk, &talk
	p, err := child.Start(cmd, s.Namespace)
	if err == nil {
		<-p.Done
		err = p.Err
	}
	if err != nil {
		return fmt.Errorf("%v: %w: %s", cmd.Args, err, talk.String())
	}
	return nil
}
