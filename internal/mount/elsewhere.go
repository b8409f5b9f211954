package mount

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// heldElsewhere is a BusyError when the file system at point would be left alive by an umount
// there: other mount namespaces (containers) have it, and do not follow. Copies in user namespaces
// do not count: any user can make one for himself (unshare -Urm) at any time, and must not hold
// anybody up with that.
func heldElsewhere(point string) error {
	own := readTable("/proc/self")
	at := -1
	for i, e := range own {
		if e.point == point {
			at = i
		}
	}
	if at < 0 {
		return nil // umount says so
	}
	for i, e := range own {
		if i != at && e.number == own[at].number {
			return fmt.Errorf("unmount %s: the same file system is mounted at %s as well. Try: umount %s", point, e.point, e.point)
		}
	}
	if users := mounters(own[at].number, own, own.parent(own[at])); len(users) > 0 {
		return &BusyError{Disk: own[at].source, Users: users}
	}
	return nil
}

// mounters finds a process for each other mount namespace in which the disk (its number, "259:1")
// is mounted; own is the table of this one. With a parent, the mount on which it is mounted here,
// only those are meant that stay after an umount here, and are of no user namespace.
func mounters(number string, own table, parent *entry) []User {
	seen := map[string]bool{}
	for _, e := range own {
		seen[e.id] = true
	}
	tables := map[string]table{}
	for _, proc := range processDirs() {
		for _, e := range readTable(proc) {
			if e.number == number && !seen[e.id] {
				seen[e.id] = true
				tables[proc] = readTable(proc)
			}
		}
	}
	var follows map[string]bool
	if parent != nil {
		follows = followers(parent.shared)
	}
	// Of other users' processes the agent's unit may read mountinfo and uid_map, but not the links
	// in /proc/PID/ns.
	users, _ := os.ReadFile("/proc/self/uid_map")
	return processes(func(proc string) bool {
		t, ok := tables[proc]
		if !ok {
			return false
		}
		if parent == nil {
			return true
		}
		if theirs, err := os.ReadFile(filepath.Join(proc, "uid_map")); err != nil || !bytes.Equal(theirs, users) {
			return false
		}
		for _, e := range t {
			below := t.parent(e)
			if e.number == number && (below == nil || !follows[below.shared] && !follows[below.master]) {
				return true
			}
		}
		return false
	})
}

// followers are the peer groups in which an umount on a mount of the group happens as well: its
// own, and those of its slaves, to any depth (mount_namespaces(7)).
func followers(group string) map[string]bool {
	groups := map[string]bool{}
	if group == "" {
		return groups
	}
	groups[group] = true
	slaves := map[string][]string{} // master -> groups
	for _, proc := range processDirs() {
		for _, e := range readTable(proc) {
			if e.master != "" && e.shared != "" {
				slaves[e.master] = append(slaves[e.master], e.shared)
			}
		}
	}
	for todo := []string{group}; len(todo) > 0; todo = todo[1:] {
		for _, slave := range slaves[todo[0]] {
			if !groups[slave] {
				groups[slave] = true
				todo = append(todo, slave)
			}
		}
	}
	return groups
}

// table is the mounts of one mount namespace. No two namespaces share the id of a mount.
type table []entry

// entry is a line of mountinfo: proc_pid_mountinfo(5).
type entry struct {
	id, above, number, point, source string
	shared, master                   string // peer groups; "": none
}

// readTable gives as much as can be read: a process may be gone.
func readTable(proc string) (t table) {
	data, _ := os.ReadFile(filepath.Join(proc, "mountinfo"))
	for line := range strings.Lines(string(data)) {
		before, after, _ := strings.Cut(line, " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		if len(fields) < 6 || len(rest) < 2 {
			continue
		}
		e := entry{id: fields[0], above: fields[1], number: fields[2], point: fields[4], source: rest[1]}
		for _, optional := range fields[6:] {
			if group, ok := strings.CutPrefix(optional, "shared:"); ok {
				e.shared = group
			} else if group, ok := strings.CutPrefix(optional, "master:"); ok {
				e.master = group
			}
		}
		t = append(t, e)
	}
	return t
}

// parent is the mount on which e is mounted; nil: it is not in the table.
func (t table) parent(e entry) *entry {
	for i := range t {
		if t[i].id == e.above {
			return &t[i]
		}
	}
	return nil
}

func processDirs() []string {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	return dirs
}
