package e2e

import (
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// agentTracer sees what the agent, and its children (the one that works on disks, and e2fsck below
// that), change outside of themselves.
func agentTracer(killAt int) *tracer {
	return &tracer{program: "ebs-release-agent", effect: agentEffect, killAt: killAt, killAll: true}
}

// agentEffects are the system calls by which a program changes the world outside itself.
var agentEffects = map[uint64]string{
	unix.SYS_WRITE: "write", unix.SYS_PWRITE64: "pwrite64", unix.SYS_SENDTO: "sendto", unix.SYS_SENDMSG: "sendmsg",
	unix.SYS_OPENAT: "openat", unix.SYS_MKDIRAT: "mkdirat", unix.SYS_UNLINKAT: "unlinkat", unix.SYS_RENAMEAT: "renameat",
	unix.SYS_RENAMEAT2: "renameat2", unix.SYS_SYMLINKAT: "symlinkat", unix.SYS_LINKAT: "linkat", unix.SYS_FTRUNCATE: "ftruncate",
	unix.SYS_FCHMOD: "fchmod", unix.SYS_FCHMODAT: "fchmodat", unix.SYS_FCHOWN: "fchown", unix.SYS_FCHOWNAT: "fchownat", unix.SYS_FLOCK: "flock",
	unix.SYS_MOUNT: "mount", unix.SYS_UMOUNT2: "umount2", unix.SYS_FSOPEN: "fsopen", unix.SYS_FSCONFIG: "fsconfig", unix.SYS_FSMOUNT: "fsmount",
	unix.SYS_MOVE_MOUNT: "move_mount", unix.SYS_OPEN_TREE: "open_tree", unix.SYS_MOUNT_SETATTR: "mount_setattr",
}

func agentEffect(s syscallEntry) string {
	name := agentEffects[s.nr]
	switch s.nr {
	case unix.SYS_WRITE, unix.SYS_PWRITE64:
		target := s.fd(0)
		if s.args[0] <= 2 || strings.HasPrefix(target, "pipe:") || strings.HasPrefix(target, "anon_inode:") {
			return "" // what it says, and what it says to itself
		}
		return name + " " + plain(target)
	case unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_FTRUNCATE, unix.SYS_FCHMOD, unix.SYS_FCHOWN, unix.SYS_FLOCK:
		return name + " " + plain(s.fd(0))
	case unix.SYS_OPENAT:
		if s.args[2]&(unix.O_CREAT|unix.O_WRONLY|unix.O_RDWR|unix.O_TRUNC) == 0 {
			return ""
		}
		return name + " " + plain(s.text(1))
	case unix.SYS_MKDIRAT, unix.SYS_UNLINKAT, unix.SYS_FCHMODAT, unix.SYS_FCHOWNAT:
		return name + " " + plain(s.text(1))
	case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_LINKAT:
		return name + " " + plain(s.text(1)) + " " + s.text(3)
	case unix.SYS_SYMLINKAT:
		return name + " " + s.text(2)
	case unix.SYS_FSCONFIG:
		return fmt.Sprintf("%s %d", name, s.args[1])
	}
	return name
}

// plain takes what differs from run to run out of a name: temporary names, numbers of sockets.
func plain(name string) string {
	if strings.HasPrefix(name, "socket:") {
		return "socket"
	}
	if dir, base := path.Split(name); strings.HasPrefix(base, ".") {
		return dir + strings.TrimRight(base, "0123456789")
	}
	return name
}
