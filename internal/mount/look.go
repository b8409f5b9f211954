package mount

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ebs-release/internal/advice"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Mounted is a file system at its mount point, as mountinfo has it.
type Mounted struct {
	Major, Minor uint32
	Source       string // /dev/nvme1n1: as it was when it was mounted; the number is the truth
	Kind         string // ext4
	Options      string // of the mount: rw,nosuid,nodev,noatime
	SuperOptions string // of the file system: rw,errors=remount-ro
}

func (m Mounted) String() string {
	return fmt.Sprintf("%s (%s, device %d:%d)", m.Source, m.Kind, m.Major, m.Minor)
}

// ReadOnly says by which mount option nothing can be written to the file system; "": none. It is
// read from mountinfo: the disk is not touched.
func (m Mounted) ReadOnly() string {
	// ext4 says the last two after errors (errors=remount-ro), and of one that was shut down;
	// before Linux 6.14 it says `ro`.
	for option := range strings.SplitSeq(m.Options+","+m.SuperOptions, ",") {
		if slices.Contains([]string{"ro", "emergency_ro", "shutdown"}, option) {
			return option
		}
	}
	return ""
}

// Look says what is at point. nil: nothing is mounted, and point is an empty directory, ready for a
// mount. Anything else that is not exactly one mount is an error: a symbolic link, a file, a
// directory with something in it, mounts on top of each other.
func Look(point string) (*Mounted, error) {
	dir, err := openPoint(point)
	if err != nil {
		return nil, fmt.Errorf("mount point %s: %w", point, err)
	}
	defer func() { _ = dir.Close() }()
	m, err := lookThrough(dir, point)
	if err != nil {
		return nil, fmt.Errorf("mount point %s: %w", point, err)
	}
	return m, nil
}

// CheckPath refuses what cannot be a mount point, by its name alone.
func CheckPath(point string) error {
	if !filepath.IsAbs(point) || filepath.Clean(point) != point || point == "/" {
		return errors.New("want a clean absolute path below /, such as /release")
	}
	return nil
}

// Open opens the directory at point, or the root of what is mounted there. Nobody who may write to
// a directory above it can lead that astray: no symbolic link is followed anywhere on the way.
func Open(point string) (*os.File, error) {
	dir, err := openPoint(point)
	if err != nil {
		return nil, fmt.Errorf("mount point %s: %w", point, err)
	}
	return dir, nil
}

// ErrNoPoint is of Look and Open.
var ErrNoPoint = errors.New("there is no such directory")

func openPoint(point string) (*os.File, error) {
	if err := CheckPath(point); err != nil {
		return nil, err
	}
	dir, err := openDirectory(point, unix.O_RDONLY)
	if errors.Is(err, os.ErrNotExist) {
		return nil, advice.Try(ErrNoPoint, "install -d -m 0555 %s", point)
	}
	return dir, err
}

// openDirectory resolves path in one step of the kernel's, without symbolic links.
func openDirectory(path string, flags uint64) (*os.File, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags: flags | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("it is, or lies behind, a symbolic link%s: want a real directory", leadsTo(path))
	case errors.Is(err, unix.ENOTDIR):
		if real, err := filepath.EvalSymlinks(path); err == nil && real != path { // O_NOFOLLOW says the same of the last name
			return nil, fmt.Errorf("it is, or lies behind, a symbolic link%s: want a real directory", leadsTo(path))
		}
		return nil, errors.New("it is not a directory")
	case errors.Is(err, unix.ENOSYS):
		return nil, fmt.Errorf("openat2(2) needs Linux 5.6 or later: %w", err)
	case err != nil:
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// leadsTo is for people: where a path leads to.
func leadsTo(path string) string {
	real, err := filepath.EvalSymlinks(path)
	if err != nil || real == path {
		return ""
	}
	return fmt.Sprintf(" (to %s)", real)
}

// openParent opens the directory in which a mount point is, to act on the name in it.
func openParent(point string) (dir *os.File, name string, err error) {
	if err := CheckPath(point); err != nil {
		return nil, "", err
	}
	dir, err = openDirectory(filepath.Dir(point), unix.O_PATH)
	return dir, filepath.Base(point), err
}

// MakePoint makes the directory at point, of mode 0555 whatever the umask is, when there is nothing
// of that name; made: there was nothing. Nobody can write into the bare directory but root: an
// application that starts without the mount does not fill it.
func MakePoint(point string) (made bool, err error) {
	parent, name, err := openParent(point)
	if err != nil {
		return false, fmt.Errorf("make the mount point %s: %w", point, err)
	}
	defer func() { _ = parent.Close() }()
	err = unix.Mkdirat(int(parent.Fd()), name, 0o555)
	if errors.Is(err, unix.EEXIST) {
		return false, nil // a directory or not: Look says
	}
	if err != nil {
		return false, fmt.Errorf("make the mount point %s: %w", point, err)
	}
	dir, err := openPoint(point)
	if err != nil {
		return true, fmt.Errorf("make the mount point %s: %w", point, err)
	}
	defer func() { _ = dir.Close() }()
	if err := dir.Chmod(0o555); err != nil {
		return true, fmt.Errorf("make the mount point %s: %w", point, err)
	}
	return true, nil
}

func lookThrough(dir *os.File, point string) (*Mounted, error) {
	infos, err := mountinfo.GetMounts(at(point))
	if err != nil {
		return nil, fmt.Errorf("read mountinfo: %w", err)
	}
	switch len(infos) {
	case 0:
	case 1:
		m := fromInfo(infos[0])
		return &m, nil
	default:
		return nil, advice.Try(fmt.Errorf("%d mounts lie on top of each other, the last is %s", len(infos), fromInfo(infos[len(infos)-1])),
			"umount %s", point)
	}
	names, err := dir.Readdirnames(1)
	if len(names) > 0 {
		return nil, fmt.Errorf("the directory is not empty (%s is in it): a mount would hide that", filepath.Join(point, names[0]))
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return nil, nil
}

func fromInfo(info *mountinfo.Info) Mounted {
	return Mounted{
		Major: uint32(info.Major), Minor: uint32(info.Minor),
		Source: info.Source, Kind: info.FSType, Options: info.Options, SuperOptions: info.VFSOptions,
	}
}

// Visible reads back that the disk major:minor is what this process and PID 1 see at point. PID 1
// stands for everybody else: an agent in a mount namespace of its own would mount for itself alone
// (systemd #9873).
func Visible(point string, major, minor uint32) error {
	for _, table := range []string{"/proc/self/mountinfo", "/proc/1/mountinfo"} {
		seen, err := topMount(table, point)
		if err != nil {
			return fmt.Errorf("read back the mount at %s: %w", point, err)
		}
		switch {
		case seen != nil && seen.Major == major && seen.Minor == minor:
		case table == "/proc/1/mountinfo":
			return advice.Try(fmt.Errorf("PID 1 does not see the mount of %d:%d at %s: this program runs in a mount namespace of its own",
				major, minor, point),
				"take PrivateMounts=, PrivateTmp=, ProtectSystem= and the like out of the unit's drop-ins")
		case seen == nil:
			return fmt.Errorf("%s is not mounted, though the kernel accepted it", point)
		default:
			return fmt.Errorf("%s shows %s, not the disk %d:%d that was mounted", point, seen, major, minor)
		}
	}
	return nil
}

func topMount(table, point string) (*Mounted, error) {
	f, err := os.Open(table)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	infos, err := mountinfo.GetMountsFromReader(f, at(point))
	if err != nil || len(infos) == 0 {
		return nil, err
	}
	m := fromInfo(infos[len(infos)-1])
	return &m, nil
}

// at keeps the entries of one mount point, all of them: the last one is on top.
func at(point string) mountinfo.FilterFunc {
	return func(info *mountinfo.Info) (skip, stop bool) { return info.Mountpoint != point, false }
}
