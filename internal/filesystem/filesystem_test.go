package filesystem_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"ebs-release/internal/filesystem"
	"ebs-release/internal/test/scratch"
)

// image makes a sparse file, with a real file system on it when mkfs is given.
func image(t testing.TB, size int64, mkfs ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	if len(mkfs) > 0 {
		run(t, append(mkfs, path)...)
	}
	return path
}

func run(t testing.TB, argv ...string) {
	t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
}

func patch(t testing.TB, path string, at int64, data ...byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, at); err != nil {
		t.Fatal(err)
	}
}

func TestProbeReadsWhatMkfsMade(t *testing.T) {
	const uuid = "12345678-9abc-def0-1234-56789abcdef0"
	for _, tc := range []struct {
		name, kernel string
		kind         filesystem.Kind
		size         int64
		mkfs         []string
	}{
		{"ext2", "ext4", filesystem.Ext2, 8 << 20, []string{"mkfs.ext2", "-q", "-F", "-L", "code_release", "-U", uuid}},
		{"ext3", "ext4", filesystem.Ext3, 16 << 20, []string{"mkfs.ext3", "-q", "-F", "-L", "code_release", "-U", uuid}},
		{"ext4", "ext4", filesystem.Ext4, 16 << 20, []string{"mkfs.ext4", "-q", "-F", "-L", "code_release", "-U", uuid}},
		{"ext4 without checksums", "ext4", filesystem.Ext4, 16 << 20, []string{"mkfs.ext4", "-q", "-F", "-O", "^metadata_csum", "-L", "code_release", "-U", uuid}},
		{"ext4 of 4 KiB blocks", "ext4", filesystem.Ext4, 64 << 20, []string{"mkfs.ext4", "-q", "-F", "-b", "4096", "-L", "code_release", "-U", uuid}},
		{"xfs", "xfs", filesystem.XFS, 320 << 20, []string{"mkfs.xfs", "-q", "-L", "code_release", "-m", "uuid=" + uuid}},
		{"xfs version 4", "xfs", filesystem.XFS, 320 << 20, []string{"mkfs.xfs", "-q", "-L", "code_release", "-m", "crc=0,uuid=" + uuid}},
		{"xfs of 4 KiB sectors", "xfs", filesystem.XFS, 320 << 20, []string{"mkfs.xfs", "-q", "-s", "size=4096", "-L", "code_release", "-m", "uuid=" + uuid}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			info, err := filesystem.ProbeDevice(image(t, tc.size, tc.mkfs...))
			if err != nil {
				t.Fatal(err)
			}
			want := filesystem.Info{Kind: tc.kind, Label: "code_release", UUID: uuid, Bytes: tc.size}
			if info != want || info.KernelName() != tc.kernel {
				t.Fatalf("info = %+v (mounted as %s), want %+v (as %s)", info, info.KernelName(), want, tc.kernel)
			}
		})
	}
}

func TestWhatIsNoFileSystemIsToldApart(t *testing.T) {
	ext4 := func(t *testing.T) string { return image(t, 16<<20, "mkfs.ext4", "-q", "-F") }
	xfs := func(t *testing.T) string { return image(t, 320<<20, "mkfs.xfs", "-q") }
	for _, tc := range []struct {
		name string
		make func(t *testing.T) string
		want error
		text string
	}{
		{"blank", func(t *testing.T) string { return image(t, 16<<20) }, filesystem.ErrBlank, ""},
		{"empty", func(t *testing.T) string { return image(t, 0) }, filesystem.ErrBlank, ""},
		{"smaller than a superblock", func(t *testing.T) string { return image(t, 700) }, filesystem.ErrBlank, ""},
		{"something in the last MiB", func(t *testing.T) string {
			path := image(t, 16<<20)
			patch(t, path, 16<<20-1, 1)
			return path
		}, filesystem.ErrUnknown, ""},
		{"btrfs", func(t *testing.T) string {
			path := image(t, 16<<20)
			patch(t, path, 65536+64, []byte("_BHRfS_M")...)
			return path
		}, filesystem.ErrUnknown, "btrfs"},
		{"partition table", func(t *testing.T) string {
			path := image(t, 16<<20)
			patch(t, path, 510, 0x55, 0xaa)
			return path
		}, filesystem.ErrUnknown, "partition table or boot sector. Try: ebs-release init with a blank volume"},
		{"ext4, one bit flipped", func(t *testing.T) string {
			path := ext4(t)
			patch(t, path, 1024+0x200, 1)
			return path
		}, filesystem.ErrDamaged, "checksum"},
		{"xfs, one bit flipped", func(t *testing.T) string {
			path := xfs(t)
			patch(t, path, 300, 1)
			return path
		}, filesystem.ErrDamaged, "checksum"},
		{"ext3 with a mad block size", func(t *testing.T) string {
			path := image(t, 16<<20, "mkfs.ext3", "-q", "-F")
			patch(t, path, 1024+0x18, 99)
			return path
		}, filesystem.ErrDamaged, "block size"},
		{"ext4 cut off", func(t *testing.T) string {
			path := ext4(t)
			if err := os.Truncate(path, 8<<20); err != nil {
				t.Fatal(err)
			}
			return path
		}, filesystem.ErrTruncated, "cut off"},
		{"xfs cut off", func(t *testing.T) string {
			path := xfs(t)
			if err := os.Truncate(path, 64<<20); err != nil {
				t.Fatal(err)
			}
			return path
		}, filesystem.ErrTruncated, "cut off"},
		{"external journal", func(t *testing.T) string {
			return image(t, 16<<20, "mke2fs", "-q", "-F", "-O", "journal_dev")
		}, filesystem.ErrDamaged, "external journal"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := tc.make(t)
			info, err := filesystem.ProbeDevice(path)
			if !errors.Is(err, tc.want) || !strings.Contains(fmt.Sprint(err), tc.text) {
				t.Fatalf("info %+v, error %v, want %v with %q in it", info, err, tc.want, tc.text)
			}
		})
	}
}

// A snapshot is of one volume: what needs a second device cannot be mounted where only the
// snapshot's copy is.
func TestAFileSystemOnTwoDevicesIsRefused(t *testing.T) {
	other := image(t, 128<<20)
	for _, tc := range []struct {
		name, text string
		make       func(t *testing.T) string
	}{
		{"ext4 with a journal elsewhere", "journal is on another device", func(t *testing.T) string {
			journal := scratch.Loop(t, image(t, 16<<20, "mke2fs", "-q", "-F", "-b", "4096", "-O", "journal_dev"))
			return image(t, 64<<20, "mkfs.ext4", "-q", "-F", "-b", "4096", "-J", "device="+journal)
		}},
		{"xfs with a log elsewhere", "log is on another device", func(t *testing.T) string {
			return image(t, 320<<20, "mkfs.xfs", "-q", "-f", "-l", "size=64m,logdev="+other)
		}},
		{"xfs with a realtime device", "realtime device", func(t *testing.T) string {
			return image(t, 320<<20, "mkfs.xfs", "-q", "-f", "-r", "rtdev="+other)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := filesystem.Check(t.Context(), tc.make(t), slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), tc.text) || !strings.Contains(err.Error(), "Try: ") {
				t.Fatalf("err = %v, want %q and what to do", err, tc.text)
			}
		})
	}
}

func TestUnreadableDiskIsNotCalledBlank(t *testing.T) {
	_, err := filesystem.Probe(bytes.NewReader(make([]byte, 2048)), 16<<20)
	if err == nil || errors.Is(err, filesystem.ErrBlank) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("error = %v", err)
	}
}

func TestE2fsckRunsOnlyWhenTheSuperblockAsks(t *testing.T) {
	for _, tc := range []struct {
		name  string
		mkfs  string
		debug string // debugfs command on the image
		runs  bool
		dirty bool
	}{
		{"clean", "mkfs.ext4", "", false, false},
		{"dirty journal", "mkfs.ext4", "feature needs_recovery", false, true},
		{"error flag", "mkfs.ext4", "ssv state 3", true, false},
		{"error flag on ext3", "mkfs.ext3", "ssv state 3", true, false},
		{"ext2 that was mounted", "mkfs.ext2", "ssv state 0", true, false},
		{"mounted often", "mkfs.ext3", "ssv mnt_count 999", false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := image(t, 16<<20, tc.mkfs, "-q", "-F")
			if tc.debug != "" {
				run(t, "debugfs", "-w", "-R", tc.debug, path)
			}
			var log bytes.Buffer
			info, err := filesystem.Check(context.Background(), path, slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			if ran := strings.Contains(log.String(), "e2fsck ended"); ran != tc.runs {
				t.Errorf("e2fsck ran: %v, want %v\n%s", ran, tc.runs, log.String())
			}
			if info.NeedsCheck != "" || info.JournalDirty != tc.dirty {
				t.Errorf("info = %+v", info)
			}
		})
	}
}

func TestCheckFailsWhenE2fsckCannotRepairByItself(t *testing.T) {
	path := image(t, 16<<20, "mkfs.ext4", "-q", "-F")
	// An error flag and a root directory that is none: e2fsck -p leaves that to a person.
	run(t, "debugfs", "-w", "-R", "ssv state 3", path)
	run(t, "debugfs", "-w", "-R", "sif <2> mode 0100644", path)
	_, err := filesystem.Check(context.Background(), path, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "exit code 4") || !strings.Contains(err.Error(), "error flag is set") {
		t.Fatalf("error = %v", err)
	}
}

// Row 92: a damaged disk makes e2fsck say more than memory holds.
func TestCheckKeepsTheEndOfWhatE2fsckSays(t *testing.T) {
	path := image(t, 16<<20, "mkfs.ext4", "-q", "-F")
	run(t, "debugfs", "-w", "-R", "ssv state 3", path)
	programs := t.TempDir()
	talks := "#!/bin/sh\nyes an inode is damaged | head -c 100000000\necho UNEXPECTED INCONSISTENCY\nexit 4\n"
	if err := os.WriteFile(filepath.Join(programs, "e2fsck"), []byte(talks), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", programs+":"+os.Getenv("PATH"))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := filesystem.Check(t.Context(), path, slog.New(slog.DiscardHandler))
	runtime.ReadMemStats(&after)
	if err == nil || !strings.Contains(err.Error(), "UNEXPECTED INCONSISTENCY)") || len(err.Error()) > 1000 {
		t.Errorf("error = %v", err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 8<<20 { // a Check reads about 3 MiB of the disk
		t.Errorf("%d bytes were allocated", took)
	}
}

func TestCheckEndsWithItsContext(t *testing.T) {
	path := image(t, 16<<20, "mkfs.ext4", "-q", "-F")
	run(t, "debugfs", "-w", "-R", "ssv state 3", path)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := filesystem.Check(ctx, path, slog.New(slog.DiscardHandler)); !errors.Is(err, context.Canceled) {
		t.Fatalf("error = %v", err)
	}
}

// The seeds in testdata are the superblocks that the real mkfs wrote.
func FuzzExt(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		// The magic stands, so that the fuzzer works on what comes after it.
		data = bytes.Clone(data) // the fuzzer's own is not to be changed
		if len(data) >= 1024+0x3a {
			binary.LittleEndian.PutUint16(data[1024+0x38:], 0xef53)
		}
		probeAnything(t, data)
	})
}

func FuzzXFS(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		data = bytes.Clone(data)
		copy(data, "XFSB")
		probeAnything(t, data)
	})
}

// probeAnything probes data as it is, and as the start of a disk that is large enough for what its
// superblock claims.
func probeAnything(t *testing.T, data []byte) {
	for _, size := range []int64{int64(len(data)), 1 << 50} {
		info, err := filesystem.Probe(bytes.NewReader(data), size)
		if err == nil && (info.Kind == "" || info.Bytes <= 0 || info.Bytes > size) {
			t.Fatalf("accepted %+v on %d bytes", info, size)
		}
	}
}
