package host

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"ebs-release/internal/lab/netns"
)

// Host is one machine of a network. Its disk and its address stay while it is switched off and on;
// Destroy takes all of it down.
//
// The methods that switch it come one after the other; the rest may be called at any time.
type Host struct {
	ID      string
	Address netip.Addr

	network   *Network
	spec      Spec
	port      string // the switch's end of its cable
	cabled    bool
	namespace *os.File // its network namespace
	metadata  *http.Server
	console   *os.File

	mu      sync.Mutex
	current *boot // nil when it is off
	boots   int
	fresh   bool // it has a new root, and has not booted from it
}

var errOff = errors.New("the host is switched off")

// NewHost puts a host into the network and connects it. It has no power yet.
func (n *Network) NewHost(ctx context.Context, spec Spec) (*Host, error) {
	h := &Host{ID: spec.ID, Address: spec.Address, network: n, spec: spec, port: fmt.Sprintf("port%d", n.ports.Add(1))}
	if err := h.assemble(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("make host %s: %w", spec.ID, err), h.Destroy(context.WithoutCancel(ctx)))
	}
	return h, nil
}

func (h *Host) assemble(ctx context.Context) error {
	if err := makeFolder(h.directory()); err != nil {
		return err
	}
	var err error
	h.console, err = os.OpenFile(h.ConsoleFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	if h.namespace, err = netns.New(); err != nil {
		return err
	}
	if err := h.network.ip(ctx, h.network.namespace, h.namespace, "link add "+h.port+" type veth peer name eth0 netns /proc/self/fd/3",
		"link set "+h.port+" master "+bridge+" up"); err != nil {
		return err
	}
	h.cabled = true
	if err := h.network.ip(ctx, h.namespace, nil, "link set lo up", "addr add 169.254.169.254/32 dev lo",
		fmt.Sprintf("addr add %s/%d dev eth0", h.Address, h.network.subnet.Bits()), "link set eth0 up"); err != nil {
		return err
	}
	if h.spec.Metadata == nil {
		return nil
	}
	l, err := listen(h.namespace, netip.MustParseAddrPort("169.254.169.254:80"))
	if err != nil {
		return err
	}
	h.metadata = &http.Server{Handler: h.spec.Metadata, ReadHeaderTimeout: 10 * time.Second}
	go h.metadata.Serve(l) // ends with Destroy
	return nil
}

// PowerOn starts the host. It returns when the first process runs; Booted waits for the rest.
func (h *Host) PowerOn() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.current != nil || h.namespace == nil {
		return fmt.Errorf("switch %s on: it is on, or destroyed", h.ID)
	}
	services := h.spec.Boot
	if h.boots == 0 || h.fresh {
		h.fresh = false
		services = append(append([]Service{}, h.spec.FirstBoot...), services...)
	}
	o := order{Hostname: h.spec.Hostname, Directory: filepath.Join(h.network.dir, "hosts", h.ID),
		Binds: h.spec.Binds, Env: h.spec.Env, Boot: services}
	for _, layer := range h.spec.Layers {
		o.Layers = append(o.Layers, filepath.Join(h.network.dir, layer))
	}
	b, err := h.start(o)
	if err != nil {
		return fmt.Errorf("switch %s on: %w", h.ID, err)
	}
	h.current = b
	h.boots++
	return nil
}

// Shutdown asks the host to end its programs, and cuts the power when it has not done so after the
// grace time.
func (h *Host) Shutdown(ctx context.Context, grace time.Duration) error {
	if b := h.boot(); b != nil {
		b.process.Process.Signal(syscall.SIGTERM) // gone already: fine
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-b.ended:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return h.PowerOff()
}

// PowerOff cuts the power: every process of the host is gone when it returns. Disks, files and
// network stay.
func (h *Host) PowerOff() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.current == nil {
		return nil
	}
	b := h.current
	h.current = nil
	mounts := diskMounts(b.process.Process.Pid)
	b.process.Process.Kill() // gone already: fine
	mounts.thaw()            // a process that writes to a frozen file system does not die
	<-b.ended
	mounts.thaw() // frozen in between
	mounts.close()
	return nil
}

// NewRoot forgets all that a host which is off has ever written, and says what it is made of from
// now on. Its address, its disks and its console stay.
func (h *Host) NewRoot(spec Spec) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.current != nil {
		return fmt.Errorf("a new root for %s: it is on", h.ID)
	}
	for _, name := range []string{"upper", "work"} {
		path := filepath.Join(h.directory(), name)
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
	}
	h.spec, h.fresh = spec, true
	return nil
}

// Destroy cuts the power and takes the host out of the network: files, address, all of it. Its
// console stays. Once is enough; twice is no error.
func (h *Host) Destroy(ctx context.Context) error {
	errs := []error{h.PowerOff()}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.metadata != nil {
		errs = append(errs, h.metadata.Close())
	}
	if h.cabled {
		errs = append(errs, h.network.ip(ctx, h.network.namespace, nil, "link del "+h.port))
	}
	if h.namespace != nil {
		errs = append(errs, h.namespace.Close())
	}
	if h.console != nil {
		errs = append(errs, h.console.Close())
	}
	h.metadata, h.namespace, h.console, h.cabled = nil, nil, nil, false
	errs = append(errs, os.RemoveAll(h.directory()))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("destroy host %s: %w", h.ID, err)
	}
	return nil
}

// ConsoleFile is the file that keeps what the host wrote to its console, over all boots.
func (h *Host) ConsoleFile() string { return filepath.Join(h.network.consoles, h.ID+".log") }

// Console is what the host has written to its console so far.
func (h *Host) Console() string {
	data, err := os.ReadFile(h.ConsoleFile())
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// On says whether the host has power.
func (h *Host) On() bool {
	b := h.boot()
	if b == nil {
		return false
	}
	select {
	case <-b.ended:
		return false
	default:
		return true
	}
}

// Boots counts how often the host was switched on.
func (h *Host) Boots() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.boots
}

// PID is the host's first process as the machine sees it, 0 when the host is off.
func (h *Host) PID() int {
	if b := h.boot(); b != nil {
		return b.process.Process.Pid
	}
	return 0
}

// Path is where the machine finds a file of the running host: /proc/PID/root/release. Absolute
// symbolic links on the way lead out of the host.
func (h *Host) Path(path string) string { return fmt.Sprintf("/proc/%d/root%s", h.PID(), path) }

func (h *Host) boot() *boot {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.current
}

func (h *Host) directory() string { return h.network.Path("hosts", h.ID) }
