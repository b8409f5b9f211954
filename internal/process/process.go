// Package process reads what /proc says of the processes of this machine (proc(5)). A process may
// be gone at any moment, or be hidden from this user: then there is less to read, and no error.
package process

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is its directory in /proc.
type Process string

// Self is this process.
const Self Process = "/proc/self"

// All are the processes that /proc shows: root sees all of this machine.
func All() (all []Process, err error) {
	entries, err := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, wrong := strconv.Atoi(e.Name()); wrong == nil {
			all = append(all, Of(pid))
		}
	}
	return all, err
}

// Of is the process with a number.
func Of(pid int) Process { return Process(filepath.Join("/proc", strconv.Itoa(pid))) }

// PID is its number; 0 for Self.
func (p Process) PID() int {
	pid, _ := strconv.Atoi(filepath.Base(string(p)))
	return pid
}

// Read reads one of its files; "": gone, or not ours to see.
func (p Process) Read(file string) string {
	data, _ := os.ReadFile(filepath.Join(string(p), file))
	return string(data)
}

// Name is that of its program, at most 15 bytes, and whatever it calls itself.
func (p Process) Name() string { return strings.TrimSpace(p.Read("comm")) }

// Command is its program and arguments, as it says itself; nil: a thread of the kernel.
func (p Process) Command() []string {
	line := p.Read("cmdline")
	if line == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(line, "\x00"), "\x00")
}

// Mine says whether it is of this process's user.
func (p Process) Mine() bool {
	var st syscall.Stat_t
	return syscall.Stat(string(p), &st) == nil && int(st.Uid) == os.Geteuid()
}

// tick is the unit of times in /proc/PID/stat: USER_HZ, which is 100 for every program on Linux
// (time(7)).
const tick = 10 * time.Millisecond

// State is what it does ("D": waits for a disk and cannot be killed), and when after the boot of
// this machine it began (proc_pid_stat(5)).
func (p Process) State() (state string, began time.Duration, ok bool) {
	fields := p.stat()
	if len(fields) < 20 {
		return "", 0, false
	}
	since, err := strconv.ParseInt(fields[22-3], 10, 64)
	return fields[0], time.Duration(since) * tick, err == nil
}

// Parent is the number of the process whose child it is; 0: there is none, or it is gone.
func (p Process) Parent() int {
	fields := p.stat()
	if len(fields) < 2 {
		return 0
	}
	pid, _ := strconv.Atoi(fields[4-3])
	return pid
}

// stat has the fields of that file from the third one on: the name before them may hold anything.
func (p Process) stat() []string {
	stat := p.Read("stat")
	return strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
}

// Links are the paths in /proc of what it has open: its working directory and root, and its files.
func (p Process) Links() []string {
	links := []string{filepath.Join(string(p), "cwd"), filepath.Join(string(p), "root")}
	open, _ := os.ReadDir(filepath.Join(string(p), "fd"))
	for _, fd := range open {
		links = append(links, filepath.Join(string(p), "fd", fd.Name()))
	}
	return links
}

// Mount is a line of mountinfo (proc_pid_mountinfo(5)). No two mount namespaces share an ID.
type Mount struct {
	ID, Above      string // of the mount that it lies on
	Number         string // of the disk: "259:1"
	Root           string // what of the file system is mounted
	Point, Source  string
	Shared, Master string // peer groups; "": none
}

// mostMounts is how many bytes of one process's mounts are read: the kernel allows 100,000 mounts
// in a namespace.
const mostMounts = 64 << 20

// Mounts are those that it sees. An error says that some are missing.
func (p Process) Mounts() (mounts []Mount, err error) {
	file, err := os.Open(filepath.Join(string(p), "mountinfo"))
	if err != nil {
		return nil, nil
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, mostMounts+1))
	switch {
	case isGone(err):
		err = nil
	case err != nil:
		err = fmt.Errorf("mounts of process %d: %w", p.PID(), err)
	case len(data) > mostMounts:
		err = fmt.Errorf("process %d has more mounts than are read", p.PID())
	}
	for line := range strings.Lines(string(data)) {
		before, after, _ := strings.Cut(line, " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		if len(fields) < 6 || len(rest) < 2 {
			continue
		}
		m := Mount{ID: fields[0], Above: fields[1], Number: fields[2], Root: fields[3], Point: fields[4], Source: rest[1]}
		for _, optional := range fields[6:] {
			if group, ok := strings.CutPrefix(optional, "shared:"); ok {
				m.Shared = group
			} else if group, ok := strings.CutPrefix(optional, "master:"); ok {
				m.Master = group
			}
		}
		mounts = append(mounts, m)
	}
	return mounts, err
}

// isGone: it ended while its file was read.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || errors.Is(err, syscall.EINVAL)
}
