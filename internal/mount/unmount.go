package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/process"

	"golang.org/x/sys/unix"
)

// BusyError is a file system that could not be unmounted because processes use it, or a disk that
// is in use though it is mounted nowhere here.
type BusyError struct {
	Point string // empty: it is about Disk
	Disk  string
	Users []User // of a disk: one for each mount namespace that has it mounted
}

// User is a process that uses a file system.
type User struct {
	PID  int
	Name string
}

func (e *BusyError) Error() string {
	if e.Point == "" && len(e.Users) == 0 {
		return fmt.Sprintf("%s is still in use, perhaps by a container that has it mounted", e.Disk)
	}
	if len(e.Users) == 0 {
		return fmt.Sprintf("unmount %s: it is in use", e.Point)
	}
	words := make([]string, 0, len(e.Users))
	for _, u := range e.Users {
		if len(words) == 8 {
			words = append(words, fmt.Sprintf("and %d more", len(e.Users)-8))
			break
		}
		words = append(words, fmt.Sprintf("%d (%s)", u.PID, u.Name))
	}
	if e.Point == "" {
		return fmt.Sprintf("%s is mounted in the mount namespace (a container?) of pid %s", e.Disk, strings.Join(words, ", "))
	}
	return fmt.Sprintf("unmount %s: in use by pid %s", e.Point, strings.Join(words, ", "))
}

// advised adds what to do.
func (e *BusyError) advised() error {
	switch {
	case e.Point == "" && len(e.Users) == 0:
		return advice.Try(e, "lsblk %s, and grep its number in /proc/*/mountinfo; stop what uses it, then ebs-release-agent up", e.Disk)
	case len(e.Users) == 0:
		// Without CAP_SYS_PTRACE, as in the unit, /proc does not tell of other users' processes.
		return advice.Try(e, "fuser -vm %s, and stop what uses it", e.Point)
	case e.Point == "":
		return advice.Try(e, "stop these first, then ebs-release-agent up")
	}
	return advice.Try(e, "stop these first")
}

// Unmount takes the file system at point away. In use, or mounted in another mount namespace as
// well: a BusyError that names the processes, and the mount stays. Never lazy, never forced: those
// leave a file system alive that nobody sees.
func Unmount(point string) error {
	if err := heldElsewhere(point); err != nil {
		return err
	}
	parent, name, err := openParent(point)
	if err != nil {
		return fmt.Errorf("unmount %s: %w", point, err)
	}
	defer func() { _ = parent.Close() }()
	// Below a descriptor, as umount(2) has no other way not to follow links above the mount point.
	err = unix.Unmount(fmt.Sprintf("/proc/self/fd/%d/%s", parent.Fd(), name), unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		return (&BusyError{Point: point, Users: users(point)}).advised()
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", point, err)
	}
	return nil
}

// Unused is nil when nothing uses the block device at path. An umount here says nothing about other
// mount namespaces: a container that was given the mount point holds the file system on. In use: a
// BusyError.
func Unused(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0) // of a block device: EBUSY while it is mounted anywhere
	if errors.Is(err, unix.EBUSY) {
		var node unix.Stat_t
		busy := &BusyError{Disk: path}
		if unix.Stat(path, &node) == nil {
			number := fmt.Sprintf("%d:%d", unix.Major(node.Rdev), unix.Minor(node.Rdev))
			busy.Users = mounters(number, readTable(process.Self), nil)
		}
		return busy.advised()
	}
	if err != nil {
		return fmt.Errorf("see whether %s is in use: %w", path, err)
	}
	return unix.Close(fd)
}

// users finds the processes with a working directory, root, program, open file or mapping below
// point.
func users(point string) []User {
	return processes(func(p process.Process) bool { return usesPoint(p, point) })
}

// all are the processes that can be seen.
func all() []process.Process {
	seen, _ := process.All()
	return seen
}

func processes(match func(process.Process) bool) []User {
	var found []User
	for _, p := range all() {
		if match(p) {
			found = append(found, User{PID: p.PID(), Name: p.Name()})
		}
	}
	slices.SortFunc(found, func(a, b User) int { return a.PID - b.PID })
	return found
}

func usesPoint(p process.Process, point string) bool {
	for _, link := range append(p.Links(), filepath.Join(string(p), "exe")) {
		target, err := os.Readlink(link)
		if err == nil && (target == point || strings.HasPrefix(target, point+"/")) {
			return true
		}
	}
	return strings.Contains(p.Read("maps"), " "+point+"/")
}
