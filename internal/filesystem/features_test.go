package filesystem

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWhyNotMountedNamesTheFeatures(t *testing.T) {
	invalid := fmt.Errorf("mount /dev/nvme1n1 as xfs: %w", unix.EINVAL)
	info := Info{Kind: XFS, Newer: newer([]features{{"incompat", 0x4000003f, xfsKnownIncompat, map[uint32]string{0x20: "nrext64"}}})}
	if err := info.WhyNotMounted(invalid); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "nrext64, incompat 0x40000000") {
		t.Errorf("got %v", err)
	}
	if err := (Info{Kind: XFS}).WhyNotMounted(invalid); err != invalid {
		t.Errorf("a file system that all know: %v", err)
	}
	if err := info.WhyNotMounted(unix.EIO); err != unix.EIO {
		t.Errorf("a disk that cannot be read: %v", err)
	}
}
