// Package vm is the lab's virtual machines: a real kernel with systemd as PID 1, a real sshd, and
// NVMe disks that come and go while it runs. qemu emulates the processor, so that it works wherever
// the lab does.
//
// A Machine boots an Image (Golden, perhaps with Extras installed), keeps its disks over a power
// cut, and has its cable in a Switch, beside the lab's hosts. Nothing outlives the process, however
// that ends: qemu dies with it, and the network device with qemu. Files lie in directories of the
// caller.
package vm

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
	"sync"
	"time"

	"ebs-release/internal/lab/child"
	"ebs-release/internal/output"

	"golang.org/x/sys/unix"
)

// MarkPort is a serial port to which neither kernel nor systemd write a word: it belongs to the
// programs of tests. What one of them writes to it with one write(2), and a newline at its end,
// arrives as one line, a mark. On the console lines of many writers mix, even in the middle of one.
const MarkPort = "/dev/ttyS1"

// bootedMark comes from a unit of the golden disk (golden/customize.sh), after multi-user.target.
const bootedMark = "multi-user.target"

// Spec says what a machine is made of.
type Spec struct {
	ID      string // its instance id: names its directory and its files
	Image   *Image
	Dir     string // an existing directory of the caller's: the machine makes ID/, ID.console and ID.marks in it
	Switch  Switch
	Address netip.Addr // in the switch's subnet
	KeyFile string     // private key that root accepts (Extras.AuthorizedKey): the lab's own way in

	Hostname    string   // default: ip-10-0-0-5, as on EC2
	Environment []string // NAME=value, for each unit (systemd.setenv) and for Run; no spaces
	KernelArgs  []string // further words for the kernel's command line: systemd.mask=…
	CPUs        int      // default 2
	MemoryMiB   int      // default 768
	Slots       int      // how many disks can be plugged, besides root; default 4
}

// Machine is one virtual machine. Its disks and its address stay while it is switched off and on;
// Destroy takes all of it down.
//
// The methods that switch it come one after the other; the rest may be called at any time.
type Machine struct {
	ID      string
	Address netip.Addr

	spec    Spec
	dir     string
	console *serial
	marks   *serial
	// patience is how long the machine may be silent after power on: four that start on two cores
	// say their first word after 10 s.
	patience time.Duration
	logins   chan struct{} // holds one token: who has it may open the ssh connection

	mu    sync.Mutex
	boot  *boot   // the last one; nil before the first and after a power cut
	slots []*Disk // what is plugged, over power cuts
	login *login  // the open ssh connection, nil without one

	asleep bool    // its memory is in a file of its root (Hibernate)
	resume string  // where the kernel finds that, once there was one
	first  []*Disk // what the firmware found when it booted, by slot
}

// boot is one run of a machine, from power on to power off.
type boot struct {
	process *child.Process
	qmp     *qmp
	talk    *output.Ends  // what qemu itself had to say
	marked  chan struct{} // closed when all marks have been read
}

// New makes a machine, with a disk of its own over the image's. It has no power yet.
func New(ctx context.Context, spec Spec) (*Machine, error) {
	if spec.Hostname == "" {
		spec.Hostname = "ip-" + strings.ReplaceAll(spec.Address.String(), ".", "-")
	}
	spec.CPUs, spec.MemoryMiB, spec.Slots = orDefault(spec.CPUs, 2), orDefault(spec.MemoryMiB, 768), orDefault(spec.Slots, 4)
	m := &Machine{ID: spec.ID, Address: spec.Address, spec: spec, dir: filepath.Join(spec.Dir, spec.ID),
		patience: 75 * time.Second, slots: make([]*Disk, spec.Slots), logins: make(chan struct{}, 1)}
	m.logins <- struct{}{}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("make machine %s: %w", spec.ID, err)
	}
	if err := os.Mkdir(m.dir, 0o700); err != nil { // of another machine, perhaps: not ours to remove
		return nil, fmt.Errorf("make machine %s: %w", spec.ID, err)
	}
	if err := m.assemble(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("make machine %s: %w", spec.ID, err), m.Destroy())
	}
	return m, nil
}

func (m *Machine) check() error {
	if !m.spec.Switch.Gateway.Masked().Contains(m.spec.Address) {
		return fmt.Errorf("address %s is not in the subnet of %s", m.spec.Address, m.spec.Switch.Gateway)
	}
	for _, e := range m.spec.Environment {
		if strings.ContainsAny(e, " \t\n\"'") || !strings.Contains(e, "=") {
			return fmt.Errorf("environment %q: not NAME=value without spaces and quotes, which the kernel's command line can carry", e)
		}
	}
	return nil
}

func (m *Machine) assemble(ctx context.Context) error {
	var err error
	if m.console, err = newSerial(m.ConsoleFile()); err != nil {
		return err
	}
	if m.marks, err = newSerial(m.MarksFile()); err != nil {
		return err
	}
	image := m.spec.Image
	return run(exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", image.format, "-b", image.Disk, m.overlay()))
}

func (m *Machine) overlay() string { return filepath.Join(m.dir, "root.qcow2") }

// Start makes a machine and switches it on.
func Start(ctx context.Context, spec Spec) (*Machine, error) {
	m, err := New(ctx, spec)
	if err != nil {
		return nil, err
	}
	if err := m.PowerOn(ctx); err != nil {
		return nil, errors.Join(err, m.Destroy())
	}
	return m, nil
}

func (m *Machine) start() (*boot, error) {
	arguments, err := m.arguments()
	if err != nil {
		return nil, err
	}
	tap, err := m.spec.Switch.tap()
	if err != nil {
		return nil, err
	}
	defer tap.Close()
	monitor, monitorEnd, err := socketPair("monitor")
	if err != nil {
		return nil, err
	}
	defer monitorEnd.Close()
	marks, marksEnd, err := socketPair("marks")
	if err != nil {
		monitor.Close()
		return nil, err
	}
	defer marksEnd.Close()
	b := &boot{qmp: newQMP(monitor), talk: &output.Ends{}, marked: make(chan struct{})}
	cmd := exec.Command("qemu-system-x86_64", arguments...)
	cmd.Stdout, cmd.Stderr = m.console, b.talk
	cmd.ExtraFiles = []*os.File{monitorEnd, tap, marksEnd}
	if b.process, err = child.Start(cmd, nil); err != nil {
		monitor.Close()
		marks.Close()
		return nil, err
	}
	go func() { // ends with qemu
		defer close(b.marked)
		defer marks.Close()
		io.Copy(m.marks, marks)
	}()
	return b, nil
}

// socketPair is a connection to a program that gets the file.
func socketPair(name string) (net.Conn, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), name), os.NewFile(uintptr(pair[1]), name)
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn, theirs, nil
}

// off ends qemu as a power cut does, and returns when it is gone.
func (b *boot) off() {
	b.process.Kill()
	b.qmp.conn.Close()
	<-b.qmp.ended
	<-b.marked
}

// Booted waits until systemd has reached multi-user.target.
func (m *Machine) Booted(ctx context.Context) error {
	return m.WaitMark(ctx, bootedMark)
}

// Bake makes an image of the disk of a machine that was shut down, as Packer makes an AMI of an
// instance. The machine must stay, switched off, as long as others run from it.
func (m *Machine) Bake() (*Image, error) {
	if m.On() {
		return nil, fmt.Errorf("bake %s: it is on", m.ID)
	}
	return &Image{Disk: m.overlay(), Kernel: m.spec.Image.Kernel, format: "qcow2"}, nil
}

// Destroy cuts the power and removes the machine's disk. Plugged disks keep their bytes; console
// and marks stay. Once is enough; twice is no error.
func (m *Machine) Destroy() error {
	m.PowerCut()
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for slot, d := range m.slots {
		if d != nil {
			errs = append(errs, d.File.Close())
			m.slots[slot] = nil
		}
	}
	for _, port := range []*serial{m.console, m.marks} {
		if port != nil {
			errs = append(errs, port.close())
		}
	}
	errs = append(errs, os.RemoveAll(m.dir))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("destroy machine %s: %w", m.ID, err)
	}
	return nil
}

// On says whether the machine has power: it may have switched itself off.
func (m *Machine) On() bool {
	b := m.current()
	return b != nil && b.process.Running()
}

// Off is closed when the boot that is going on has ended, by a power cut or by the machine itself.
func (m *Machine) Off() <-chan struct{} {
	if b := m.current(); b != nil {
		return b.process.Done
	}
	off := make(chan struct{})
	close(off)
	return off
}

// PID is qemu's process, 0 when the machine is off.
func (m *Machine) PID() int {
	if b := m.current(); b != nil {
		return b.process.Cmd.Process.Pid
	}
	return 0
}

func (m *Machine) current() *boot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.boot
}
