package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"ebs-release/internal/lab/disk"
)

// workDir is the temporary directory of a lab: the only thing that a killed one leaves. It says
// whose it is.
type workDir struct{ path string }

const (
	dirPattern = "ebs-lab-*"
	ownerFile  = "owner.json"
)

// owner is the process that a directory belongs to. A process id alone may have been given out
// again.
type owner struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // field 22 of /proc/PID/stat: clock ticks since the machine's boot
}

func newWorkDir(parent string) (*workDir, error) {
	start, err := startOf(os.Getpid())
	if err != nil {
		return nil, err
	}
	record, err := json.Marshal(owner{PID: os.Getpid(), Start: start})
	if err != nil {
		return nil, err
	}
	path, err := os.MkdirTemp(parent, dirPattern)
	if err != nil {
		return nil, err
	}
	d := &workDir{path: path}
	// 0755: the roots of hosts lie over directories in here, and not everyone in a host is root.
	if err := errors.Join(os.WriteFile(filepath.Join(path, ownerFile), record, 0o600), os.Chmod(path, 0o755)); err != nil {
		return nil, errors.Join(err, d.remove())
	}
	return d, nil
}

// name tells this lab from others on the same machine.
func (d *workDir) name() string { return filepath.Base(d.path) }

func (d *workDir) remove() error { return os.RemoveAll(d.path) }

// sweep removes the directories of labs in parent whose process is gone, and frees the disks that
// such a lab left frozen.
func sweep(parent string) error {
	found, err := filepath.Glob(filepath.Join(parent, dirPattern))
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range found {
		if !dead(path) {
			continue
		}
		if err := errors.Join(disk.Free(filepath.Base(path)), os.RemoveAll(path)); err != nil {
			errs = append(errs, fmt.Errorf("remove what is left of %s: %w", path, err))
		}
	}
	return errors.Join(errs...)
}

// dead says whether the directory belongs to a lab whose process is gone. A directory that does not
// say whose it is is left alone.
func dead(path string) bool {
	var o owner
	data, err := os.ReadFile(filepath.Join(path, ownerFile))
	if err != nil || json.Unmarshal(data, &o) != nil {
		return false
	}
	start, err := startOf(o.PID)
	return err != nil || start != o.Start
}

// startOf is when a process was started.
func startOf(pid int) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	end := strings.LastIndexByte(string(data), ')') // of the program's name, which may hold blanks
	_, rest, _ := strings.Cut(string(data[end+1:]), " ")
	fields := strings.Fields(rest)
	const start = 22 - 3 // fields from the third one on
	if len(fields) <= start {
		return "", fmt.Errorf("/proc/%d/stat has only %d fields", pid, len(fields))
	}
	return fields[start], nil
}
