package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Sleep stops every process of the host where it is, and Wake lets them go on: what is left of a
// suspend to disk where there is no kernel of its own. Memory, files, mounts and disks stay; a
// clock that counts sleep does not jump.
func (h *Host) Sleep() error { return h.signal(unix.SIGSTOP) }

// Wake is the other half of Sleep.
func (h *Host) Wake() error { return h.signal(unix.SIGCONT) }

// signal sends a signal to all processes of the host's PID namespace. The first one goes first, so
// that it starts no more of them; whoever is forked meanwhile is found in the next round.
func (h *Host) signal(s unix.Signal) error {
	b := h.boot()
	if b == nil {
		return fmt.Errorf("%s to %s: %w", s, h.ID, errOff)
	}
	first := b.process.Process.Pid
	want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", first))
	if err != nil {
		return err
	}
	told := map[int]bool{}
	for again := true; again; {
		again = false
		spaces, err := filepath.Glob("/proc/[0-9]*/ns/pid")
		if err != nil {
			return err
		}
		for _, file := range append([]string{fmt.Sprintf("/proc/%d/ns/pid", first)}, spaces...) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(file))))
			if err != nil || told[pid] {
				continue
			}
			if space, err := os.Readlink(file); err != nil || space != want { // gone meanwhile, or another host's
				continue
			}
			if err := unix.Kill(pid, s); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("%s to process %d of %s: %w", s, pid, h.ID, err)
			}
			told[pid], again = true, true
		}
	}
	return nil
}
