package filesystem

import (
	"encoding/binary"
	"hash/crc32"
	"io"
	"math"
	"math/bits"
	"slices"
)

// The superblock of xfs: one sector at 0, big endian (the checksum is little endian). Offsets are
// those of struct xfs_dsb in the kernel's fs/xfs/libxfs/xfs_format.h.
const (
	xfsMagic     = "XFSB"
	xfsMaxSector = 32768

	xfsIncompatNeedsRepair = 1 << 4

	// What Linux 5.14 knows: finobt, rmapbt, reflink, inobtcount; ftype, spinodes, meta_uuid,
	// bigtime, needsrepair. A log item feature is set while the log is dirty only, by the kernel
	// that wrote it.
	xfsKnownROCompat    = 0xf
	xfsKnownIncompat    = 0x1f
	xfsKnownLogIncompat = 0
)

func isXFS(head []byte) bool { return len(head) >= 512 && string(head[:4]) == xfsMagic }

func parseXFS(disk io.ReaderAt, head []byte, size int64) (Info, error) {
	u16 := func(at int) uint16 { return binary.BigEndian.Uint16(head[at:]) }
	u32 := func(at int) uint32 { return binary.BigEndian.Uint32(head[at:]) }

	version := u16(100) & 0xf
	if version != 4 && version != 5 {
		return Info{}, damaged(XFS, "version %d, want 4 or 5", version)
	}
	sector := int64(u16(102))
	if sector < 512 || sector > xfsMaxSector || bits.OnesCount64(uint64(sector)) != 1 {
		return Info{}, damaged(XFS, "sector size %d", sector)
	}
	if version == 5 {
		if err := checkXFSSum(disk, head, sector, size); err != nil {
			return Info{}, err
		}
		if u32(216)&xfsIncompatNeedsRepair != 0 {
			return Info{}, damaged(XFS, "it is marked as needing xfs_repair")
		}
	}
	blockSize, blocks := uint64(u32(4)), binary.BigEndian.Uint64(head[8:])
	groupBlocks, groups := uint64(u32(84)), uint64(u32(88))
	switch {
	case blockSize < 512 || blockSize > 65536 || bits.OnesCount64(blockSize) != 1:
		return Info{}, damaged(XFS, "block size %d", blockSize)
	case blocks == 0 || blocks > math.MaxInt64/blockSize:
		return Info{}, damaged(XFS, "%d blocks of %d bytes", blocks, blockSize)
	case groups == 0 || groupBlocks == 0 || blocks > groups*groupBlocks || blocks <= (groups-1)*groupBlocks:
		return Info{}, damaged(XFS, "%d blocks in %d groups of %d", blocks, groups, groupBlocks)
	case head[126] != 0:
		return Info{}, damaged(XFS, "mkfs.xfs never finished on it")
	case binary.BigEndian.Uint64(head[48:]) == 0: // sb_logstart
		return Info{}, notAlone(XFS, "its log is on another device", "-l logdev")
	case binary.BigEndian.Uint64(head[16:]) != 0: // sb_rblocks
		return Info{}, notAlone(XFS, "it has a realtime device", "-r rtdev")
	}
	info := Info{Kind: XFS, Label: label(head[108:120]), UUID: formatUUID(head[32:48]), Bytes: int64(blocks * blockSize)}
	if version == 5 {
		info.Newer = newer([]features{
			{"compat", u32(208), 0, nil},
			{"ro_compat", u32(212), xfsKnownROCompat, nil},
			{"incompat", u32(216), xfsKnownIncompat, map[uint32]string{0x20: "nrext64", 0x40: "exchange", 0x80: "parent", 0x100: "metadir"}},
			{"log_incompat", u32(220), xfsKnownLogIncompat, nil},
		})
	}
	return info, nil
}

func checkXFSSum(disk io.ReaderAt, head []byte, sector, size int64) error {
	data := head
	if sector > int64(len(head)) {
		var err error
		if data, err = readFull(disk, 0, min(sector, size)); err != nil {
			return err
		}
	}
	data = slices.Clone(data[:min(sector, int64(len(data)))])
	want := binary.LittleEndian.Uint32(data[224:])
	clear(data[224:228])
	if got := crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)); got != want {
		return damaged(XFS, "checksum %08x, computed %08x", want, got)
	}
	return nil
}
