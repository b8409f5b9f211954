package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"ebs-release/internal/lab"

	"golang.org/x/sys/unix"
)

// publisherTracer sees what the publisher and its freeze guard do for others to see: the children
// that it starts, freeze and thaw, and all that it changes on /release and in the pointer store.
// What ssh and rsync do is theirs. The guard goes on when the publisher is killed.
func publisherTracer(killAt int) *tracer {
	return &tracer{program: "ebs-release", effect: publisherEffect, follow: isGuard, orphans: true, killAt: killAt}
}

func isGuard(pid int) bool {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return bytes.Contains(line, []byte("\x00freeze-guard\x00"))
}

// Requests of ioctl(2), linux/fs.h.
const (
	fiFreeze = 0xC0045877
	fiThaw   = 0xC0045878
)

func publisherEffect(s syscallEntry) string {
	on := func(what, path string) string {
		watched := func(root string) bool { return path == root || strings.HasPrefix(path, root+"/") }
		if !slices.ContainsFunc([]string{"/release", lab.PointerStore}, watched) {
			return ""
		}
		return what + " " + path
	}
	switch s.nr {
	case unix.SYS_EXECVE:
		return "exec " + filepath.Base(s.text(0))
	case unix.SYS_IOCTL:
		switch s.args[1] {
		case fiFreeze:
			return "freeze"
		case fiThaw:
			return "thaw"
		}
	case unix.SYS_OPENAT:
		if s.args[2]&(unix.O_CREAT|unix.O_TRUNC) != 0 || s.args[2]&unix.O_TMPFILE == unix.O_TMPFILE {
			return on("create", s.path(0))
		}
	case unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_WRITEV, unix.SYS_SENDFILE:
		return on("write", s.fd(0))
	case unix.SYS_COPY_FILE_RANGE:
		return on("write", s.fd(2))
	case unix.SYS_FTRUNCATE:
		return on("truncate", s.fd(0))
	case unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNCFS:
		return on("sync", s.fd(0))
	case unix.SYS_FLOCK:
		return on("lock", s.fd(0))
	case unix.SYS_FCHMOD:
		return on("chmod", s.fd(0))
	case unix.SYS_FCHOWN:
		return on("chown", s.fd(0))
	case unix.SYS_FCHMODAT:
		return on("chmod", s.path(0))
	case unix.SYS_FCHOWNAT:
		return on("chown", s.path(0))
	case unix.SYS_UTIMENSAT:
		return on("utimes", s.path(0))
	case unix.SYS_MKDIRAT:
		return on("mkdir", s.path(0))
	case unix.SYS_UNLINKAT:
		return on("unlink", s.path(0))
	case unix.SYS_SYMLINKAT:
		return on("symlink", s.path(1))
	case unix.SYS_LINKAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2:
		return on(map[bool]string{true: "link", false: "rename"}[s.nr == unix.SYS_LINKAT], s.path(2))
	}
	return ""
}

var (
	releaseName = regexp.MustCompile(`[0-9]{8}T[0-9]{6}Z-[0-9a-f]{12}`)
	randomName  = regexp.MustCompile(`[0-9]{6,}$`)
)

// effectKind is an effect without the names that are others each time.
func effectKind(effect string) string {
	return randomName.ReplaceAllString(releaseName.ReplaceAllString(effect, "ID"), "RANDOM")
}
