package mount

import (
	"fmt"

	"ebs-release/internal/advice"
	"ebs-release/internal/process"
)

// heldElsewhere is a BusyError when the file system at point would stay mounted in other mount
// namespaces (containers) after an umount here. Copies in user namespaces do not count: any user
// can make one for himself (unshare -Urm) at any time, and must not hold anybody up with that.
func heldElsewhere(point string) error {
	own := readTable(process.Self)
	at := -1
	for i, e := range own {
		if e.Point == point {
			at = i
		}
	}
	if at < 0 {
		return nil // umount says so
	}
	for i, e := range own {
		if i != at && e.Number == own[at].Number {
			return advice.Try(fmt.Errorf("unmount %s: the same file system is mounted at %s as well", point, e.Point), "umount %s", e.Point)
		}
	}
	if users := mounters(own[at].Number, own, own.parent(own[at])); len(users) > 0 {
		return (&BusyError{Disk: own[at].Source, Users: users}).advised()
	}
	return nil
}

// mounters finds a process for each other mount namespace in which the disk (its number, "259:1")
// is mounted; own is the table of this one. parent is the mount that it is mounted on here: then
// only namespaces count in which it stays after an umount here, and that are of no other user
// namespace. nil: all count.
func mounters(number string, own table, parent *process.Mount) []User {
	seen := map[string]bool{}
	for _, e := range own {
		seen[e.ID] = true
	}
	tables := map[process.Process]table{}
	for _, p := range all() {
		for _, e := range readTable(p) {
			if e.Number == number && !seen[e.ID] {
				seen[e.ID] = true
				tables[p] = readTable(p)
			}
		}
	}
	var follows map[string]bool
	if parent != nil {
		follows = followers(parent.Shared)
	}
	// Of other users' processes the agent's unit may read mountinfo and uid_map, but not the links
	// in /proc/PID/ns.
	users := process.Self.Read("uid_map")
	return processes(func(p process.Process) bool {
		t, ok := tables[p]
		if !ok {
			return false
		}
		if parent == nil {
			return true
		}
		if p.Read("uid_map") != users {
			return false
		}
		for _, e := range t {
			below := t.parent(e)
			if e.Number == number && (below == nil || !follows[below.Shared] && !follows[below.Master]) {
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
	for _, p := range all() {
		for _, e := range readTable(p) {
			if e.Master != "" && e.Shared != "" {
				slaves[e.Master] = append(slaves[e.Master], e.Shared)
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

// table is the mounts of one mount namespace.
type table []process.Mount

// readTable gives as much as can be read: a process may be gone.
func readTable(p process.Process) table {
	mounts, _ := p.Mounts()
	return mounts
}

// parent is the mount on which e is mounted; nil: it is not in the table.
func (t table) parent(e process.Mount) *process.Mount {
	for i := range t {
		if t[i].ID == e.Above {
			return &t[i]
		}
	}
	return nil
}
