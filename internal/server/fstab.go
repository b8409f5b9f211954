package server

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/renameio/v2"
)

// fstabOptions: a release server that boots without its volume must come up all the same.
const fstabOptions = "nosuid,nodev,noatime,nofail,x-systemd.device-timeout=60s"

// persist adds a mount to an fstab, by UUID. A line for the mount point that says the same disk
// stays as it is, whatever its options: a person may have changed them. One that says another disk
// is an error.
func persist(fstab, uuid, mountPoint, fileSystem string) (changed bool, err error) {
	data, err := os.ReadFile(fstab)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("persist the mount: %w", err)
	}
	source, where := "UUID="+uuid, fstabEscape(mountPoint)
	for n, line := range strings.Split(string(data), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") || fields[1] != where {
			continue
		}
		if fields[0] == source {
			return false, nil
		}
		return false, fmt.Errorf("persist the mount: %s line %d mounts %s at %s, not %s; take that line out",
			fstab, n+1, fields[0], mountPoint, source)
	}
	pass := 2
	if fileSystem == "xfs" { // has no check at boot
		pass = 0
	}
	if len(data) > 0 && data[len(data)-1] != '\n' {
		data = append(data, '\n')
	}
	data = fmt.Appendf(data, "%s %s %s %s 0 %d\n", source, where, fileSystem, fstabOptions, pass)
	// A temporary file beside it: the rename needs the same file system. The mode of the old file
	// stays.
	if err := renameio.WriteFile(fstab, data, 0o644, renameio.WithExistingPermissions()); err != nil {
		return false, fmt.Errorf("persist the mount: write %s: %w", fstab, err)
	}
	return true, nil
}

// fstabEscape: fields are parted by blanks, which are written in octal (fstab(5)).
func fstabEscape(path string) string {
	return strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`).Replace(path)
}
