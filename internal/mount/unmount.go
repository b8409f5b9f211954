package mount

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// BusyError is a file system that could not be unmounted because processes use it.
type BusyError struct {
	Point string
	Users []User
}

// User is a process that uses a file system.
type User struct {
	PID  int
	Name string
}

func (e *BusyError) Error() string {
	if len(e.Users) == 0 {
		// Without CAP_SYS_PTRACE, as in the unit, /proc does not tell of other users' processes.
		return fmt.Sprintf("unmount %s: it is in use. Try: fuser -vm %s, and stop what uses it", e.Point, e.Point)
	}
	words := make([]string, 0, len(e.Users))
	for _, u := range e.Users {
		if len(words) == 8 {
			words = append(words, fmt.Sprintf("and %d more", len(e.Users)-8))
			break
		}
		words = append(words, fmt.Sprintf("%d (%s)", u.PID, u.Name))
	}
	return fmt.Sprintf("unmount %s: in use by pid %s. Try: stop these first", e.Point, strings.Join(words, ", "))
}

// Unmount takes the file system at point away. In use: a BusyError that names the processes. Never lazy, never forced: those leave a
// file system alive that nobody sees.
func Unmount(point string) error {
	err := unix.Unmount(point, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		return &BusyError{Point: point, Users: users(point)}
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", point, err)
	}
	return nil
}

// users finds the processes with a working directory, root, program, open file or mapping below point.
func users(point string) []User {
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	var found []User
	for _, proc := range procs {
		if !usesPoint(proc, point) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil {
			continue
		}
		name, _ := os.ReadFile(filepath.Join(proc, "comm"))
		found = append(found, User{PID: pid, Name: strings.TrimSpace(string(name))})
	}
	slices.SortFunc(found, func(a, b User) int { return a.PID - b.PID })
	return found
}

func usesPoint(proc, point string) bool {
	links := []string{"cwd", "root", "exe"}
	fds, _ := os.ReadDir(filepath.Join(proc, "fd"))
	for _, fd := range fds {
		links = append(links, filepath.Join("fd", fd.Name()))
	}
	for _, link := range links {
		target, err := os.Readlink(filepath.Join(proc, link))
		if err == nil && (target == point || strings.HasPrefix(target, point+"/")) {
			return true
		}
	}
	maps, _ := os.ReadFile(filepath.Join(proc, "maps"))
	return bytes.Contains(maps, []byte(" "+point+"/"))
}
