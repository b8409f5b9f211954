package release

import (
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// inUse says whether a process has a folder of a tree open: as its working directory, as its root, or as a descriptor. The kernel shows that of the
// processes of one's own user only, and of all of them to root; what another user's programs have open nobody can tell without being root.
func inUse(tree string) bool {
	var want unix.Stat_t
	if err := unix.Lstat(tree, &want); err != nil {
		return false
	}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return true // nobody can tell at all
	}
	for _, p := range processes {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		dir := filepath.Join("/proc", p.Name())
		if isBelow(filepath.Join(dir, "cwd"), &want) || isBelow(filepath.Join(dir, "root"), &want) {
			return true
		}
		open, _ := os.ReadDir(filepath.Join(dir, "fd")) // not ours to see, or gone: no names
		for _, fd := range open {
			if isBelow(filepath.Join(dir, "fd", fd.Name()), &want) {
				return true
			}
		}
	}
	return false
}

// isBelow says whether a link of /proc leads to a directory in a tree, or to the tree itself. It climbs up from there: in a container, or after the
// tree was renamed, no path would tell.
func isBelow(link string, tree *unix.Stat_t) bool {
	dir, err := unix.Open(link, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for err == nil {
		var st, up unix.Stat_t
		if err = unix.Fstat(dir, &st); err != nil || st.Dev != tree.Dev || st.Ino == tree.Ino {
			_ = unix.Close(dir)
			return err == nil && st.Dev == tree.Dev
		}
		var parent int
		parent, err = unix.Openat(dir, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		_ = unix.Close(dir)
		if err == nil && (unix.Fstat(parent, &up) != nil || up.Ino == st.Ino && up.Dev == st.Dev) {
			_ = unix.Close(parent)
			return false
		}
		dir = parent
	}
	return false
}
