// Package mkfs makes file systems. It is apart from package filesystem so that the agent does not
// link it (a test in agent/ holds that): "found nothing, so format" has destroyed data elsewhere
// (NetApp/trident #418, ember-csi #22).
package mkfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/filesystem"
	"ebs-release/internal/output"

	"golang.org/x/sys/unix"
)

// ErrNotBlank is a device that holds something, so that Make refuses it.
var ErrNotBlank = errors.New("the disk is not blank")

// Make makes a file system of kind (ext4 or xfs) with a label (ext4: at most 16 bytes, xfs: 12) on
// device, a block device that nobody uses. It proves the device blank first: no superblock that we
// know, and the first and last MiB all zero. Otherwise ErrNotBlank.
func Make(ctx context.Context, device string, kind filesystem.Kind, label string) error {
	argv, err := command(device, kind, label)
	if err != nil {
		return err
	}
	if kind == filesystem.XFS {
		argv = append(argv[:1:1], append(without(ctx), argv[1:]...)...)
	}
	if err := proveBlank(device); err != nil {
		return fmt.Errorf("make %s on %s: %w", kind, device, err)
	}
	// Without -F and -f, so that the programs look for themselves once more.
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = 10 * time.Second
	var out output.Ends
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out.Words(1000))
	}
	info, err := filesystem.ProbeDevice(device)
	if err != nil {
		return fmt.Errorf("read %s back after mkfs: %w", device, err)
	}
	if info.Kind != kind || info.Label != label {
		return fmt.Errorf("read %s back after mkfs: %s %q, want %s %q", device, info.Kind, info.Label, kind, label)
	}
	if info.Newer != "" {
		return advice.Try(fmt.Errorf("%s made a %s with features that a member on an older system cannot mount: %s", argv[0], kind, info.Newer),
			"another version of it, on another blank volume")
	}
	return nil
}

// extFeatures are those of e2fsprogs 1.46: later ones add what an older member's e2fsck and kernel
// refuse (orphan_file; e2fsprogs #147). They begin with none, as an older mkfs refuses the name of
// a feature that it does not know, even with ^.
const extFeatures = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file," +
	"dir_nlink,extra_isize,metadata_csum"

// without are the options that switch off what members' kernels may not know. An older mkfs.xfs
// refuses the name of an option that it does not know, so its usage is asked for those; what is
// made is looked at afterwards in any case.
func without(ctx context.Context) []string {
	cmd := exec.CommandContext(ctx, "mkfs.xfs")
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var said output.Ends
	cmd.Stdout, cmd.Stderr = &said, &said
	_ = cmd.Run() // it fails: no device is named
	usage := said.String()
	var options []string
	for _, o := range []struct{ section, name string }{{"-i", "nrext64"}, {"-i", "exchange"}, {"-n", "parent"}, {"-m", "metadir"}} {
		if strings.Contains(usage, o.name+"=0|1") {
			options = append(options, o.section, o.name+"=0")
		}
	}
	return options
}

func command(device string, kind filesystem.Kind, label string) ([]string, error) {
	limit := map[filesystem.Kind]int{filesystem.Ext4: 16, filesystem.XFS: 12}[kind]
	switch {
	case limit == 0:
		return nil, fmt.Errorf("make a file system on %s: want ext4 or xfs, not %q", device, kind)
	case len(label) > limit:
		return nil, fmt.Errorf("make %s on %s: the label %q is longer than %d bytes", kind, device, label, limit)
	case kind == filesystem.XFS:
		return []string{"mkfs.xfs", "-q", "-L", label, device}, nil
	default:
		// Inode tables at once: a lazy kernel thread would go on writing into the first snapshots.
		return []string{"mkfs.ext4", "-q", "-L", label, "-O", extFeatures, "-E", "lazy_itable_init=0,lazy_journal_init=0", device}, nil
	}
}

func proveBlank(device string) error {
	// O_EXCL on a block device: EBUSY when it is mounted, or part of something (open(2)).
	disk, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("the disk is in use (mounted?): %w", err)
	}
	if err != nil {
		return err
	}
	defer func() { _ = disk.Close() }()
	stat, err := disk.Stat()
	if err != nil {
		return err
	}
	if stat.Mode()&os.ModeDevice == 0 || stat.Mode()&os.ModeCharDevice != 0 {
		return errors.New("not a block device")
	}
	size, err := disk.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if size == 0 {
		return errors.New("the disk has no size yet")
	}
	// ErrBlank says: no superblock that we know, and the first and last MiB all zero.
	info, err := filesystem.Probe(disk, size)
	switch {
	case err == nil:
		return fmt.Errorf("%w: it holds %s, label %q, uuid %s", ErrNotBlank, info.Kind, info.Label, info.UUID)
	case errors.Is(err, filesystem.ErrBlank):
		return nil
	default:
		return fmt.Errorf("%w: %w", ErrNotBlank, err)
	}
}
