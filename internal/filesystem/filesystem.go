// Package filesystem reads the superblocks of ext2, ext3, ext4 and xfs itself, and checks ext file
// systems that ask for it.
//
// Nothing here writes to a disk but `e2fsck -p`. "There is no file system" (blank) and "there is
// something that we do not know" are told apart, and neither is ever an invitation to make one: the
// code that formats is in the subpackage mkfs, which only the publisher links.
package filesystem

import (
	"errors"
	"fmt"
	"io"
	"os"

	"ebs-release/internal/advice"
)

// Kind is a family of file systems: ext2, ext3, ext4 or xfs.
type Kind string

// The kinds that a release volume may have.
const (
	Ext2 Kind = "ext2"
	Ext3 Kind = "ext3"
	Ext4 Kind = "ext4"
	XFS  Kind = "xfs"
)

// Info is what a superblock says.
type Info struct {
	Kind  Kind
	Label string
	UUID  string
	Bytes int64 // the size of the file system, not of the device

	// JournalDirty: ext's journal must be replayed, which the kernel does at a mount. (An xfs
	// superblock does not tell.)
	JournalDirty bool
	// NeedsCheck says why e2fsck must look before a mount; empty: it need not.
	NeedsCheck string
	// Newer are the features that Linux 5.14 does not know, the oldest kernel that a member may
	// have; empty: any member can mount it.
	Newer string
}

// ReleaseLabel marks a file system that init made. No other is ever looked into for a release.
const ReleaseLabel = "code_release"

// KernelName is the name to mount by. The ext4 driver mounts all three, and unlike the other two
// names it is always there.
func (i Info) KernelName() string {
	if i.Kind == XFS {
		return "xfs"
	}
	return "ext4"
}

// What Probe may find instead of a file system. Errors of Probe wrap one of these, or are errors of
// reading.
var (
	ErrBlank     = errors.New("the disk is blank, there is no file system on it")
	ErrUnknown   = errors.New("what is on the disk is unknown: not ext2, ext3, ext4 or xfs, and not blank")
	ErrDamaged   = errors.New("the superblock is damaged")
	ErrTruncated = errors.New("the file system is larger than the disk")
)

const (
	mib      = 1 << 20
	headSize = 4096 // holds ext's superblock (1024 bytes at 1024) and xfs's (a sector at 0; see xfs.go)
)

// Probe reads the superblock of a disk of size bytes.
func Probe(disk io.ReaderAt, size int64) (Info, error) {
	head, err := readFull(disk, 0, min(headSize, size))
	if err != nil {
		return Info{}, fmt.Errorf("read the superblock: %w", err)
	}
	var info Info
	switch {
	case isXFS(head):
		info, err = parseXFS(disk, head, size)
	case isExt(head):
		info, err = parseExt(head)
	default:
		return Info{}, nothing(disk, size)
	}
	if err != nil {
		return Info{}, err
	}
	if info.Bytes > size {
		return Info{}, fmt.Errorf("%w: %s of %d bytes on %d bytes: the disk or its snapshot is cut off",
			ErrTruncated, info.Kind, info.Bytes, size)
	}
	return info, nil
}

// ProbeDevice reads the superblock of a block device, or of an image in a file.
func ProbeDevice(path string) (Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return Info{}, fmt.Errorf("look for a file system: %w", err)
	}
	defer func() { _ = f.Close() }()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return Info{}, fmt.Errorf("look for a file system: %w", err)
	}
	info, err := Probe(f, size)
	if err != nil {
		return Info{}, fmt.Errorf("look for a file system on %s: %w", path, err)
	}
	return info, nil
}

// Blank says whether the first and the last MiB of a disk of size bytes are all zero: where every
// file system, partition table, RAID and volume manager has its marks.
func Blank(disk io.ReaderAt, size int64) (bool, error) {
	for _, start := range []int64{0, max(0, size-mib)} {
		data, err := readFull(disk, start, min(mib, size-start))
		if err != nil {
			return false, fmt.Errorf("read %d bytes at %d: %w", min(mib, size-start), start, err)
		}
		for _, b := range data {
			if b != 0 {
				return false, nil
			}
		}
	}
	return true, nil
}

func nothing(disk io.ReaderAt, size int64) error {
	blank, err := Blank(disk, size)
	if err != nil {
		return err
	}
	if blank {
		return ErrBlank
	}
	for _, mark := range []struct {
		at         int64
		text, name string
	}{
		{512, "EFI PART", "a GPT partition table"},
		{65536 + 64, "_BHRfS_M", "btrfs"},
		{512, "LABELONE", "an LVM physical volume"},
		{0, "LUKS\xba\xbe", "a LUKS encrypted disk"},
		{0, "hsqs", "squashfs"},
		{4096 - 10, "SWAPSPACE2", "swap space"},
		{510, "\x55\xaa", "a partition table or boot sector"},
	} {
		data, err := readFull(disk, mark.at, int64(len(mark.text)))
		if err == nil && string(data) == mark.text {
			return advice.Try(fmt.Errorf("%w: it holds %s", ErrUnknown, mark.name), "%s", wholeDisk)
		}
	}
	return advice.Try(ErrUnknown, "%s", wholeDisk)
}

// wholeDisk is what to do about a disk with something else on it, such as partitions, which nothing
// here looks into.
const wholeDisk = "ebs-release init with a blank volume, on the whole of which it makes ext4 or xfs, and publish the files there"

// readFull reads length bytes at start; less than that is an error.
func readFull(disk io.ReaderAt, start, length int64) ([]byte, error) {
	data := make([]byte, length)
	n, err := disk.ReadAt(data, start)
	if int64(n) == length {
		return data, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return nil, err
}

func damaged(kind Kind, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrDamaged, kind, fmt.Sprintf(format, args...))
}

// notAlone is about a file system that needs a second device, which no snapshot of the volume has.
// option is the one of mkfs that made it so.
func notAlone(kind Kind, what, option string) error {
	return advice.Try(fmt.Errorf("%s: %s, and a snapshot is of one volume", kind, what),
		"a new volume, with a file system made by mkfs.%s without %s", kind, option)
}

func formatUUID(u []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

// label cuts a fixed-width name at its first zero byte and drops what does not print: it is shown
// to people.
func label(field []byte) string {
	var text []byte
	for _, b := range field {
		if b == 0 {
			break
		}
		if b >= 0x20 && b < 0x7f {
			text = append(text, b)
		}
	}
	return string(text)
}
