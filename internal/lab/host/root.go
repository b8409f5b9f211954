package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is one call of mount(2).
type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

// enterRoot gives the calling process, the first of a host, a root of its own: an overlay over the
// machine's root, so that all its programs are there and nothing that the host writes leaves it;
// then its own /dev, /proc, /sys, /run and /tmp. It is in a new mount namespace, without
// propagation.
func enterRoot(o order) error {
	root := filepath.Join(o.Directory, "root")
	var layers []string
	for _, layer := range append(o.Layers, "/") {
		layers = append(layers, overlayPath(layer))
	}
	overlay := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", strings.Join(layers, ":"),
		overlayPath(filepath.Join(o.Directory, "upper")), overlayPath(filepath.Join(o.Directory, "work")))
	table := []mount{
		{"overlay", root, "overlay", 0, overlay},
		{filepath.Join(o.Directory, "dev"), root + "/dev", "", unix.MS_BIND, ""},
		{"devpts", root + "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"},
		{"tmpfs", root + "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"proc", root + "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", root + "/sys", "sysfs", unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		// The host sees its own disks only, under the names that they would have on EC2. The view
		// is a plain directory: the lab fills it.
		{filepath.Join(o.Directory, "sys/block"), root + "/sys/block", "", unix.MS_BIND, ""},
		{filepath.Join(o.Directory, "sys/class"), root + "/sys/class/block", "", unix.MS_BIND, ""},
		{filepath.Join(o.Directory, "sys/dev"), root + "/sys/dev/block", "", unix.MS_BIND, ""},
		{"tmpfs", root + "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
		{"tmpfs", root + "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	}
	for _, m := range table {
		if err := m.do(); err != nil {
			return err
		}
	}
	for _, b := range o.Binds {
		if err := bind(b.Source, filepath.Join(root, b.Target)); err != nil {
			return err
		}
	}
	// pivot_root(2), "pivot_root(".", ".")": the old root lies over the new one for a moment and is
	// then taken away.
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	for _, dir := range []string{"/run/sshd", "/run/lock"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// overlayPath is a path in the options of an overlay, where a comma ends the option and a colon the
// path.
func overlayPath(path string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`, `:`, `\:`).Replace(path)
}

func (m mount) do() error {
	if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %s (%s): %w", m.source, m.target, m.fstype, err)
	}
	return nil
}

// bind shows the directory source at target, read-only, with what is mounted below it.
func bind(source, target string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := (mount{source, target, "", unix.MS_BIND | unix.MS_REC, ""}).do(); err != nil {
		return err
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("make %s read-only: %w", target, err)
	}
	return nil
}
