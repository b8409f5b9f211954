package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// contextLog reads what the kernel wrote into the log of a file system context: one message a read,
// "e ", "w " or "i " before it.
func contextLog(fsfd int) []string {
	var lines []string
	buf := make([]byte, 1024)
	for len(lines) < 8 {
		n, err := unix.Read(fsfd, buf)
		if err != nil || n <= 0 {
			break
		}
		text := strings.TrimSpace(string(buf[:n]))
		if _, message, ok := strings.Cut(text, " "); ok {
			text = message
		}
		lines = append(lines, text)
	}
	return lines
}

// kernelLog is /dev/kmsg from a moment on, as far as it speaks of one disk. ext4 and xfs give their
// reasons there, not in the context's log. A machine without /dev/kmsg gives fewer reasons: nothing
// here is an error.
type kernelLog struct {
	fd   int
	disk string
}

func openKernelLog(number uint64) kernelLog {
	log := kernelLog{fd: -1}
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(number), unix.Minor(number)))
	if err != nil {
		return log
	}
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return log
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		_ = unix.Close(fd)
		return log
	}
	return kernelLog{fd: fd, disk: filepath.Base(link)}
}

// read returns the lines about the disk since the log was opened: the last three.
func (l kernelLog) read() []string {
	if l.fd < 0 {
		return nil
	}
	var lines []string
	buf := make([]byte, 8192)
	for range 200 {
		n, err := unix.Read(l.fd, buf)
		if err != nil || n <= 0 {
			break
		}
		// "6,339,5140900,-;EXT4-fs (nvme1n1): message" and continuation lines that start with a
		// space.
		_, record, _ := strings.Cut(string(buf[:n]), ";")
		message, _, _ := strings.Cut(record, "\n")
		if strings.Contains(message, "("+l.disk+")") {
			lines = append(lines, message)
		}
	}
	if len(lines) > 3 {
		lines = lines[len(lines)-3:]
	}
	return lines
}

func (l kernelLog) close() {
	if l.fd >= 0 {
		_ = unix.Close(l.fd)
	}
}

func withReasons(err error, logs ...[]string) error {
	var all []string
	for _, lines := range logs {
		all = append(all, lines...)
	}
	if len(all) == 0 {
		return err
	}
	return fmt.Errorf("%w (kernel: %s)", err, strings.Join(all, "; "))
}
