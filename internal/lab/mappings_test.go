package lab

import (
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab/cloud"
)

// The disk of a mapping is there when the first program starts, and at each boot after.
func TestLaunchBringsDisks(t *testing.T) {
	l := start(t, standIns(t))
	ctx := deadline(t, 60*time.Second)
	spec := l.Member()
	spec.Mappings = []cloud.Mapping{{Device: "/dev/xvdb", SizeGiB: 1, DeleteOnTermination: true}}
	id, err := l.Account.RunInstance(ctx, spec)
	do(t, err)
	h, err := l.Booted(ctx, id)
	do(t, err)
	do(t, l.waitState(ctx, id, "running"))
	brought := ""
	for _, v := range l.Account.Volumes() {
		if v.Attachment != nil && v.Attachment.InstanceID == id && !v.Root {
			brought = v.ID
		}
	}
	for boot := range 2 {
		serial, err := h.ReadFile(ctx, "/sys/block/nvme1n1/device/serial")
		if err != nil || strings.TrimSpace(serial) != cloud.SerialOf(brought) {
			t.Fatalf("boot %d: the serial is %q (%v), want that of %s", boot, serial, err, brought)
		}
		if boot == 0 {
			do(t, l.Reboot(ctx, id))
		}
	}
	do(t, l.Account.TerminateInstance(id))
	do(t, l.Account.Wait(ctx, func() bool { return volume(l, brought).ID == "" }))
}
