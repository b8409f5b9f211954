package host

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// makeFolder makes the directory of a host: the upper layer of its root, its /dev, and its view of
// /sys.
func makeFolder(dir string) error {
	for _, d := range []string{"upper", "work", "root", "dev/pts", "dev/shm", "sys/block", "sys/class", "sys/dev"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	devices := map[string][2]uint32{"null": {1, 3}, "zero": {1, 5}, "full": {1, 7}, "random": {1, 8}, "urandom": {1, 9}, "tty": {5, 0}}
	for name, number := range devices {
		if err := makeNode(filepath.Join(dir, "dev", name), unix.S_IFCHR|0o666, number[0], number[1]); err != nil {
			return err
		}
	}
	links := map[string]string{"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(dir, "dev", name)); err != nil {
			return err
		}
	}
	return nil
}

func makeNode(path string, mode, major, minor uint32) error {
	if err := unix.Mknod(path, mode, int(unix.Mkdev(major, minor))); err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	return os.Chmod(path, os.FileMode(mode&0o777)) // mknod heeds the umask
}
