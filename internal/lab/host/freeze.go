package host

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Requests of ioctl(2) from linux/fs.h that x/sys does not name.
const (
	fiThaw     = 0xC0045878 // FITHAW
	fiShutdown = 0x8004587D // FS_IOC_SHUTDOWN, the same for ext4 and xfs
)

// loopMajor is the major number of loop devices: the disks of hosts.
const loopMajor = 7

// mounts are open root directories of mounted disks.
type mounts []*os.File

// diskMounts opens the disks that are mounted in the mount namespace of pid. They stay mounted
// until close.
//
// A machine that loses its power takes its frozen state with it. A file system in a dying mount
// namespace does not: nobody could reach it any more, and it would stay frozen, with its loop
// device in use, until the machine under the lab restarts.
func diskMounts(pid int) mounts {
	if pid == 0 {
		return nil // no power
	}
	table, err := readMounts(fmt.Sprint(pid))
	if err != nil {
		return nil // gone already
	}
	var all mounts
	for _, m := range table {
		if !m.onLoop {
			continue
		}
		if dir, err := os.Open(fmt.Sprintf("/proc/%d/root%s", pid, m.point)); err == nil {
			all = append(all, dir)
		}
	}
	return all
}

// mountLine is a line of mountinfo.
type mountLine struct {
	point, fstype string
	onLoop        bool // its device is a loop device
}

// readMounts reads /proc/PID/mountinfo (proc(5)): id, parent, major:minor, root, mount point,
// options, optional fields, "-", type, …
func readMounts(pid string) ([]mountLine, error) {
	table, err := os.ReadFile("/proc/" + pid + "/mountinfo")
	if err != nil {
		return nil, err
	}
	var all []mountLine
	for line := range strings.Lines(string(table)) {
		head, tail, _ := strings.Cut(line, " - ")
		fields, kind := strings.Fields(head), strings.Fields(tail)
		if len(fields) < 5 || len(kind) < 1 {
			return nil, fmt.Errorf("/proc/%s/mountinfo: cannot read %q", pid, line)
		}
		all = append(all, mountLine{unescape.Replace(fields[4]), kind[0], strings.HasPrefix(fields[2], fmt.Sprintf("%d:", loopMajor))})
	}
	return all, nil
}

// unescape undoes what mountinfo does to blanks.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

func (m mounts) thaw() {
	for _, dir := range m {
		unix.IoctlSetInt(int(dir.Fd()), fiThaw, 0) // EINVAL: it is not frozen
	}
}

// shutdown makes every further access to the file systems of a device fail, as when the disk is
// pulled out.
func (m mounts) shutdown(device uint64) {
	for _, dir := range m {
		var st unix.Stat_t
		if unix.Fstat(int(dir.Fd()), &st) == nil && st.Dev == device {
			unix.IoctlSetPointerInt(int(dir.Fd()), fiShutdown, 2) // 2: without writing the log (XFS_FSOP_GOING_FLAGS_NOLOGFLUSH)
		}
	}
}

func (m mounts) has(device uint64) bool {
	for _, dir := range m {
		var st unix.Stat_t
		if unix.Fstat(int(dir.Fd()), &st) == nil && st.Dev == device {
			return true
		}
	}
	return false
}

func (m mounts) close() {
	for _, dir := range m {
		dir.Close()
	}
}
