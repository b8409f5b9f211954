package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ebs-release/internal/device"
	"ebs-release/internal/doctor"
	"ebs-release/internal/exit"
	"ebs-release/internal/freeze"
	"ebs-release/internal/mount"

	"github.com/spf13/cobra"
)

// tryWriteCommand is the child process of freeze.Writable.
func (p *program) tryWriteCommand() *cobra.Command {
	return &cobra.Command{
		Use:    freeze.TryWriteVerb + " PATH",
		Short:  "Wait until a file system can be written to",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE:   func(_ *cobra.Command, args []string) error { return exit.With(exit.Failed, freeze.TryWrite(args[0])) },
	}
}

// frozenTime is how long a write may take: nothing on a member freezes its file system for longer.
const frozenTime = 2 * time.Second

// renew is what to do about a file system that is damaged, or of which a process holds the old
// state.
const renew = "stop what uses it, umount it, ebs-release-agent up, which checks the volume or makes another, and start again what used it"

// writing looks whether a push could write: the kernel makes a file system read-only when it finds
// errors, and somebody may have frozen it. Readers do not notice. Nothing is read from the disk,
// which may not answer.
func (d *bootChecks) writing(ctx context.Context) doctor.Finding {
	point := d.values.Get("mount-point")
	mounted, err := mount.Look(point)
	if err != nil || mounted == nil {
		return doctor.Fine("nothing is mounted at %s", point)
	}
	if why := mounted.ReadOnly(); why != "" {
		return doctor.Failure("dmesg (the kernel does that after errors); "+renew,
			"nothing can be written to %s: it is %s in mountinfo", point, why)
	}
	err = freeze.Writable(ctx, point, min(frozenTime, d.timeout/2))
	switch {
	case errors.Is(err, freeze.ErrStuck):
		thaw := "fsfreeze --unfreeze " + point + " (a backup may have frozen it)"
		return doctor.Failure(thaw+"; was it not frozen: dmesg, its disk does not answer", "%s", short(err))
	case err != nil:
		return doctor.Failure("dmesg; "+renew, "%s", short(err))
	}
	if n := d.recordedErrors(*mounted); n != "" && n != "0" {
		return doctor.Warning("dmesg; "+renew, "ext4 has found errors on it (%s)", n)
	}
	return doctor.Fine("writes to %s come through", point)
}

// recordedErrors is how many errors ext4 has counted on a file system since e2fsck found it clean;
// "": it is another kind.
func (d *bootChecks) recordedErrors(mounted mount.Mounted) string {
	name, _, err := device.New(d.log).Which(mounted.Major, mounted.Minor)
	if err != nil {
		return ""
	}
	count, _ := os.ReadFile(filepath.Join(d.root, "sys/fs/ext4", name, "errors_count"))
	return strings.TrimSpace(string(count))
}
