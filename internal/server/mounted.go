package server

import (
	"fmt"
	"log/slog"
	"strings"

	"ebs-release/internal/device"
	"ebs-release/internal/mount"
)

// MountedVolume is the id of the EBS volume below a mount.
func MountedVolume(mounted *mount.Mounted) (string, error) {
	name, serial, err := device.New(slog.New(slog.DiscardHandler)).Which(mounted.Major, mounted.Minor)
	if err != nil {
		return "", fmt.Errorf("which volume is %s: %w", mounted, err)
	}
	return volumeOfSerial(name, serial)
}

// volumeOfSerial turns the serial number of an EBS volume's NVMe disk, "vol0123…", into the
// volume's id.
func volumeOfSerial(disk, serial string) (string, error) {
	hex, ok := strings.CutPrefix(serial, "vol")
	if !ok {
		return "", fmt.Errorf("the disk %s has the serial %q, which is not that of an EBS volume (the release server must be a Nitro instance)",
			disk, serial)
	}
	return "vol-" + strings.TrimPrefix(hex, "-"), nil
}
