package release

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"ebs-release/internal/manifest"
	"ebs-release/internal/process"

	"golang.org/x/sys/unix"
)

// seesAll says whether inUse sees every process of this machine: the kernel shows them to root with
// CAP_SYS_PTRACE, which a sandbox may have taken, and to others only where their own are (proc(5)).
// (Mounts it shows to everybody, unless /proc has hidepid.)
func seesAll() bool {
	var mine [2]unix.CapUserData
	err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &mine[0])
	return err == nil && os.Geteuid() == 0 && mine[0].Effective&(1<<unix.CAP_SYS_PTRACE) != 0
}

// inUse returns which of some releases a mount in any namespace, or a process, leads into, and
// which: a container that has the tree bound, a working directory, a root, an open directory. Open
// and mapped files are none of that: they stay what they are when their names go. When nobody can
// tell, all are in use.
func (v *Volume) inUse(ids []string) map[string]string {
	used := map[string]string{}
	s := search{trees: map[uint64]string{}, spaces: map[string]bool{}, used: used}
	for _, id := range ids {
		var st unix.Stat_t
		if unix.Fstatat(int(v.dir.Fd()), releasesDir+"/"+id, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			s.dev = st.Dev
			s.trees[st.Ino] = id
		}
	}
	processes, err := process.All()
	for _, p := range processes {
		if err == nil {
			err = s.process(p)
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

func (s *search) process(p process.Process) error {
	for _, link := range p.Links() {
		if id := s.below(link); id != "" {
			s.note(id, "process", p)
		}
	}
	if space, err := os.Readlink(filepath.Join(string(p), "ns/mnt")); err == nil {
		if s.spaces[space] {
			return nil
		}
		s.spaces[space] = true
	}
	return s.mounts(p)
}

func (s *search) note(id, what string, p process.Process) {
	if s.used[id] == "" {
		s.used[id] = fmt.Sprintf("%s %d (%s)", what, p.PID(), manifest.Quote(p.Name()))
	}
}

// mounts looks at the mounts that a process sees.
func (s *search) mounts(p process.Process) error {
	mounts, err := p.Mounts()
	device := fmt.Sprintf("%d:%d", unix.Major(s.dev), unix.Minor(s.dev))
	for _, m := range mounts {
		if m.Number != device {
			continue
		}
		_, below, ok := strings.Cut(m.Root, "/"+releasesDir+"/")
		if id, _, _ := strings.Cut(below, "/"); ok && manifest.ValidID(id) {
			s.note(id, "a mount of process", p)
		}
	}
	return err
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
