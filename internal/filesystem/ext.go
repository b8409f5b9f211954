package filesystem

import (
	"encoding/binary"
	"hash/crc32"
	"math"
)

// The superblock of ext2, ext3 and ext4: 1024 bytes at 1024, little endian. Offsets and flags are
// those of the kernel's fs/ext4/ext4.h and of
// https://www.kernel.org/doc/html/latest/filesystems/ext4/globals.html.
const (
	extStart = 1024
	extSize  = 1024
	extMagic = 0xef53

	extStateClean  = 1
	extStateErrors = 2

	extCompatJournal = 0x4

	extIncompatFiletype   = 0x2
	extIncompatRecover    = 0x4
	extIncompatJournalDev = 0x8
	extIncompatMetaBG     = 0x10
	extIncompat64Bit      = 0x80

	extROCompatSparseSuper  = 0x1
	extROCompatLargeFile    = 0x2
	extROCompatBtreeDir     = 0x4
	extROCompatMetadataCsum = 0x400

	// What ext2 and ext3 may have. More than that is ext4.
	extOldIncompat = extIncompatFiletype | extIncompatRecover | extIncompatMetaBG
	extOldROCompat = extROCompatSparseSuper | extROCompatLargeFile | extROCompatBtreeDir
)

// What Linux 5.14 and e2fsprogs 1.46 know (fs/ext4/ext4.h, lib/e2p/feature.c): the oldest members
// have these. An old e2fsck refuses a compat feature, too, that the kernel would not mind
// (e2fsprogs #147).
const (
	extKnownCompat   = 0x0e3f // up to dir_index, sparse_super2, fast_commit, stable_inodes
	extKnownIncompat = 0x3e7d6
	extKnownROCompat = 0xb77f
)

func isExt(head []byte) bool {
	return len(head) >= extStart+extSize && binary.LittleEndian.Uint16(head[extStart+0x38:]) == extMagic
}

func parseExt(head []byte) (Info, error) {
	sb := head[extStart : extStart+extSize]
	u16 := func(at int) uint16 { return binary.LittleEndian.Uint16(sb[at:]) }
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(sb[at:]) }
	compat, incompat, roCompat := u32(0x5c), u32(0x60), u32(0x64)

	info := Info{Kind: Ext4, Label: label(sb[0x78:0x88]), UUID: formatUUID(sb[0x68:0x78])}
	if incompat&^extOldIncompat == 0 && roCompat&^extOldROCompat == 0 {
		info.Kind = Ext2
		if compat&extCompatJournal != 0 {
			info.Kind = Ext3
		}
	}

	// A checksum first: a magic of two bytes proves little.
	if roCompat&extROCompatMetadataCsum != 0 {
		if kind := sb[0x175]; kind != 1 {
			return Info{}, damaged(info.Kind, "checksum type %d, want 1 (crc32c)", kind)
		}
		// The kernel's crc32c starts with all ones and is not inverted at the end; Go's is.
		want, got := u32(0x3fc), ^crc32.Checksum(sb[:0x3fc], crc32.MakeTable(crc32.Castagnoli))
		if want != got {
			return Info{}, damaged(info.Kind, "checksum %08x, computed %08x", want, got)
		}
	}
	if incompat&extIncompatJournalDev != 0 {
		return Info{}, damaged(info.Kind, "this is an external journal, not a file system")
	}
	// The kernel looks for a journal elsewhere when there is no inode of one, e2fsck when there is
	// a UUID of one.
	if compat&extCompatJournal != 0 && (u32(0xe0) == 0 || [16]byte(sb[0xd0:0xe0]) != [16]byte{}) {
		return Info{}, notAlone(info.Kind, "its journal is on another device", "-J device")
	}

	logBlock := u32(0x18)
	if logBlock > 6 {
		return Info{}, damaged(info.Kind, "block size 1024 << %d, want at most 65536", logBlock)
	}
	blockSize := uint64(1024) << logBlock
	blocks, first := uint64(u32(0x04)), uint64(u32(0x14))
	if incompat&extIncompat64Bit != 0 {
		blocks |= uint64(u32(0x150)) << 32
	}
	switch {
	case blocks <= first || blocks > math.MaxInt64/blockSize:
		return Info{}, damaged(info.Kind, "%d blocks of %d bytes, the first is %d", blocks, blockSize, first)
	case u32(0x20) == 0 || uint64(u32(0x20)) > 8*blockSize*65536:
		return Info{}, damaged(info.Kind, "%d blocks per group", u32(0x20))
	case u32(0x00) == 0 || u32(0x28) == 0:
		return Info{}, damaged(info.Kind, "%d inodes, %d per group", u32(0x00), u32(0x28))
	}
	if inode := uint64(u16(0x58)); u32(0x4c) > 0 && (inode < 128 || inode > blockSize || inode&(inode-1) != 0) {
		return Info{}, damaged(info.Kind, "inode size %d", inode)
	}
	info.Bytes = int64(blocks * blockSize)
	info.Newer = newer([]features{
		{"compat", compat, extKnownCompat, map[uint32]string{0x1000: "orphan_file"}},
		{"incompat", incompat, extKnownIncompat, nil},
		{"ro_compat", roCompat, extKnownROCompat, map[uint32]string{0x10000: "orphan_present"}},
	})
	info.JournalDirty = incompat&extIncompatRecover != 0

	// A dirty journal is no reason: the mount replays it. Mount counts and dates are none either:
	// they are a habit, not a finding. "Not clean" is one. With a journal it is only seen after an
	// error; without one it means "was mounted when the snapshot was taken".
	switch state := u16(0x3a); {
	case state&extStateErrors != 0:
		info.NeedsCheck = "the superblock's error flag is set"
	case state&extStateClean == 0:
		info.NeedsCheck = "the superblock is not marked clean"
	}
	return info, nil
}
