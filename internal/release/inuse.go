package release

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

// maxMounts is how many bytes of one process's mounts are read: the kernel allows 100,000 mounts in
// a namespace.
const maxMounts = 64 << 20

// seesAll says whether inUse sees every process of this machine: the kernel shows root all of them,
// others only where their own are. (Mounts it shows to everybody, unless /proc has hidepid.)
func seesAll() bool { return os.Geteuid() == 0 }

// inUse returns which of some releases a mount in any namespace, or a process, leads into, and
// which: a container that has the tree bound, a working directory, a root, an open directory. Open
// and mapped files are none of that: they stay what they are when their names go. When nobody can
// tell, all are in use.
func (t Tree) inUse(ids []string) map[string]string {
	used := map[string]string{}
	s := search{trees: map[uint64]string{}, spaces: map[string]bool{}, used: used}
	for _, id := range ids {
		var st unix.Stat_t
		if unix.Lstat(t.Path(id), &st) == nil {
			s.dev = st.Dev
			s.trees[st.Ino] = id
		}
	}
	processes, err := os.ReadDir("/proc")
	for _, p := range processes {
		if _, wrong := strconv.Atoi(p.Name()); wrong == nil && err == nil {
			err = s.process(p.Name())
		}
	}
	if err != nil {
		for _, id := range ids {
			used[id] = fmt.Sprintf("somebody, perhaps: it cannot be seen who is (%v)", err)
		}
	}
	return used
}

// search goes through the processes.
type search struct {
	dev    uint64
	trees  map[uint64]string // by inode: ids
	spaces map[string]bool   // mount namespaces that were seen
	used   map[string]string
}

func (s *search) process(pid string) error {
	dir := filepath.Join("/proc", pid)
	links := []string{"cwd", "root"}
	open, _ := os.ReadDir(filepath.Join(dir, "fd")) // not ours to see, or gone: no names
	for _, fd := range open {
		links = append(links, "fd/"+fd.Name())
	}
	for _, link := range links {
		if id := s.below(filepath.Join(dir, link)); id != "" {
			s.note(id, "process", pid)
		}
	}
	if space, err := os.Readlink(filepath.Join(dir, "ns/mnt")); err == nil {
		if s.spaces[space] {
			return nil
		}
		s.spaces[space] = true
	}
	return s.mounts(pid)
}

func (s *search) note(id, what, pid string) {
	if s.used[id] == "" {
		name, _ := os.ReadFile(filepath.Join("/proc", pid, "comm")) // gone: then without it
		s.used[id] = fmt.Sprintf("%s %s (%s)", what, pid, manifest.Quote(strings.TrimSpace(string(name))))
	}
}

// mounts looks at the mounts that a process sees: fields 3 and 4 are the device and what of it is
// mounted.
func (s *search) mounts(pid string) error {
	file, err := os.Open(filepath.Join("/proc", pid, "mountinfo"))
	if err != nil {
		return nil // it is gone, or /proc hides it from us
	}
	defer func() { _ = file.Close() }()
	from := &io.LimitedReader{R: file, N: maxMounts}
	device := fmt.Sprintf("%d:%d", unix.Major(s.dev), unix.Minor(s.dev))
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 || fields[2] != device {
			continue
		}
		_, below, ok := strings.Cut(fields[3], "/"+releasesDir+"/")
		if id, _, _ := strings.Cut(below, "/"); ok && manifest.ValidID(id) {
			s.note(id, "a mount of process", pid)
		}
	}
	if from.N == 0 {
		return fmt.Errorf("process %s has more mounts than are read", pid)
	}
	if err := lines.Err(); err != nil && !os.IsNotExist(err) && err != unix.ESRCH && err != unix.EINVAL { // gone while it was read
		return fmt.Errorf("mounts of process %s: %w", pid, err)
	}
	return nil
}

// below returns the release that a link of /proc leads into, "" when there is none. It climbs up
// from there: in a container, or after a tree was renamed, no path would tell.
func (s *search) below(link string) string {
	dir, err := unix.Open(link, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for err == nil {
		var st, up unix.Stat_t
		if err = unix.Fstat(dir, &st); err != nil || st.Dev != s.dev || s.trees[st.Ino] != "" {
			_ = unix.Close(dir)
			if err != nil || st.Dev != s.dev {
				return ""
			}
			return s.trees[st.Ino]
		}
		var parent int
		parent, err = unix.Openat(dir, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		_ = unix.Close(dir)
		if err == nil && (unix.Fstat(parent, &up) != nil || up.Ino == st.Ino && up.Dev == st.Dev) {
			_ = unix.Close(parent)
			return ""
		}
		dir = parent
	}
	return ""
}
