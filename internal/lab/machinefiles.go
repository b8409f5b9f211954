package lab

import (
	"os"
	"path"
	"slices"
	"strings"

	"ebs-release/internal/lab/host"
)

// ownPaths are what a release server has of its own: what its image brings, and where its programs
// write.
var ownPaths = []string{
	"/boot", "/dev", "/etc", "/home/" + SSHUser, "/lost+found", "/proc", "/release", "/run", PointerStore, "/sys", "/tmp",
	"/usr/bin", "/usr/sbin", "/var/cache", "/var/lib", "/var/log", "/var/run",
}

// MachineFiles are binds (Options.ServerBinds) that show this machine's directories to the release
// server as they are at each moment, but for those that it has of its own. Its root alone does not:
// it is an overlay, whose lower layer must not change, and a file that an editor replaces there
// stays the old one.
func MachineFiles() ([]host.Bind, error) { return machineFiles("/") }

func machineFiles(dir string) (binds []host.Bind, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		at := path.Join(dir, e.Name())
		switch {
		case !e.IsDir() || slices.Contains(ownPaths, at):
		case slices.ContainsFunc(ownPaths, func(own string) bool { return strings.HasPrefix(own, at+"/") }):
			below, err := machineFiles(at)
			if err != nil {
				return nil, err
			}
			binds = append(binds, below...)
		default:
			binds = append(binds, host.Bind{Source: at, Target: at})
		}
	}
	return binds, nil
}
