package disks

import (
	"context"
	"os"
	"testing"
	"time"

	"ebs-release/internal/boot"
)

// In a first boot the mount point need not be there yet.
func TestBroughtBeforeThereIsAMountPoint(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	m := nvme(t, "mkfs.ext4", "-q", "-F", "-L", "code_release")
	must(t, os.Remove(m.Point))
	found, err := m.Brought(ctx, boot.Wanted{Store: "0123456789abcdef", Document: "{}"})
	if err != nil || len(found) != 1 || found[0].ID != ours.ID || found[0].Unfit == nil {
		t.Errorf("found %+v (%v)", found, err)
	}
}
