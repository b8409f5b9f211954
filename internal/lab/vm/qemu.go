package vm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// kernelArgs make an emulated kernel boot fast. None of them changes what a program sees of disks,
// mounts, units or the network: mitigations and profilers cost emulated time, expedited RCU saves
// real waits.
const kernelArgs = "console=ttyS0 quiet systemd.show_status=1 root=PARTUUID=" + partUUID + " rootwait rw panic=-1 net.ifnames=0 " +
	"mitigations=off nokaslr no5lvl tsc=reliable no_timer_check nowatchdog cryptomgr.notests rcupdate.rcu_expedited=1 audit=0 " +
	"systemd.status_unit_format=name" // for people: with descriptions systemd shortens both

// arguments of qemu-system-x86_64. File descriptor 3 is the monitor's socket, 4 the tap, 5 where
// marks go; stdout is the console.
func (m *Machine) arguments() ([]string, error) {
	root, err := json.Marshal(map[string]any{
		"driver": "qcow2", "node-name": "root", "discard": "unmap", "cache": noFlush,
		"file": map[string]any{"driver": "file", "filename": m.overlay(), "cache": noFlush, "discard": "unmap"},
	})
	if err != nil {
		return nil, err
	}
	arguments := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-M", "q35,vmport=off,smbus=off,sata=off,usb=off",
		// Not "max": what newer processors can do is slow to emulate. rdrand spares the kernel its
		// wait for randomness.
		"-accel", "tcg,thread=multi", "-cpu", "Nehalem,+rdrand",
		"-smp", fmt.Sprint(m.spec.CPUs), "-m", fmt.Sprint(m.spec.MemoryMiB),
		// What dmidecode shows on EC2.
		"-smbios", "type=1,manufacturer=Amazon EC2,product=m5.large",
		"-chardev", "socket,id=monitor,fd=3", "-mon", "chardev=monitor,mode=control",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-chardev", "socket,id=marks,fd=5", "-serial", "chardev:marks", // MarkPort
		"-netdev", "tap,id=net,fd=4", "-device", "virtio-net-pci,netdev=net,romfile=,mac=" + mac(m.spec.Address),
		"-blockdev", string(root), "-device", "nvme,drive=root,serial=root",
		"-kernel", m.spec.Image.Kernel, "-append", m.commandLine(),
	}
	for slot := range m.spec.Slots {
		arguments = append(arguments, "-device", fmt.Sprintf("pcie-root-port,id=%s,chassis=%d,slot=%d", port(slot), slot+1, slot+1))
	}
	for slot, d := range m.first {
		if d == nil || d != m.slots[slot] { // taken out since
			continue
		}
		blockdev, err := json.Marshal(d.blockdev())
		if err != nil {
			return nil, err
		}
		device, err := json.Marshal(d.device(slot))
		if err != nil {
			return nil, err
		}
		arguments = append(arguments, "-blockdev", string(blockdev), "-device", string(device))
	}
	return arguments, nil
}

// noFlush: a flush of the guest ends in the page cache of the machine that runs the lab, not on its
// disk. The page cache outlives a killed qemu, so a power cut is as honest as with real flushes,
// and many times faster.
var noFlush = map[string]any{"no-flush": true, "direct": false}

func port(slot int) string { return fmt.Sprintf("port%d", slot) }

func (m *Machine) commandLine() string {
	words := []string{kernelArgs,
		// dracut's syntax, which systemd-network-generator reads: address, peer, gateway, netmask,
		// host name, device, method.
		fmt.Sprintf("ip=%s::%s:%s::eth0:none", m.spec.Address, m.spec.Switch.Gateway.Addr(), netmask(m.spec.Switch.Gateway)),
		"systemd.hostname=" + m.spec.Hostname, "systemd.machine_id=" + machineID(m.spec.ID),
	}
	if khz := counterRate(); khz > 0 {
		words = append(words, fmt.Sprintf("tsc_early_khz=%d", khz))
	}
	for _, e := range m.spec.Environment {
		words = append(words, "systemd.setenv="+e)
	}
	if m.resume != "" {
		words = append(words, m.resume)
	}
	return strings.Join(append(words, m.spec.KernelArgs...), " ")
}

func netmask(p netip.Prefix) string {
	mask := ^uint32(0) << (32 - p.Bits())
	return netip.AddrFrom4([4]byte{byte(mask >> 24), byte(mask >> 16), byte(mask >> 8), byte(mask)}).String()
}

var megahertz = regexp.MustCompile(`(?m)^cpu MHz\s*: ([0-9.]+)$`)

// counterRate is how fast this machine's time stamp counter runs, which is the guest's, too; 0 when
// it is not known. A guest that has to find out by itself errs when it is not given the processor
// meanwhile: its clock ran 200 times too fast, and every deadline in it was over at once.
func counterRate() (khz int) {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || !bytes.Contains(data, []byte(" hypervisor ")) { // on bare metal that line is the speed of the moment
		return 0
	}
	if m := megahertz.FindSubmatch(data); m != nil {
		mhz, _ := strconv.ParseFloat(string(m[1]), 64)
		return int(mhz * 1000)
	}
	return 0
}
