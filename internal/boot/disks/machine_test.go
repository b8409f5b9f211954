package disks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/boot"
	"ebs-release/internal/boot/source"
	"ebs-release/internal/device"
	"ebs-release/internal/gc"
	"ebs-release/internal/manifest"
	"ebs-release/internal/mount"
	"ebs-release/internal/test/scratch"

	"golang.org/x/sys/unix"
)

var ours = boot.Volume{ID: "vol-0123456789abcdef0", Attached: true, Device: "/dev/xvdaa"}

// nvme is a machine on which a loop device looks like the NVMe disk of our volume, with a free
// mount point.
func nvme(t *testing.T, mkfs ...string) *Machine {
	t.Helper()
	var node unix.Stat_t
	if err := unix.Stat(scratch.Disk(t, 32<<20, mkfs...), &node); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(dir, "sys/nvme1n1", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("device/serial", device.Serial(ours.ID))
	write("size", "65536")
	write("dev", fmt.Sprintf("%d:%d", unix.Major(node.Rdev), unix.Minor(node.Rdev)))
	point := filepath.Join(dir, "release")
	for _, directory := range []string{filepath.Join(dir, "dev"), point} {
		if err := os.Mkdir(directory, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mknod(filepath.Join(dir, "dev/nvme1n1"), unix.S_IFBLK|0o600, int(node.Rdev)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(point, unix.UMOUNT_NOFOLLOW) })
	m := New(point, source.Source{}, slog.New(slog.DiscardHandler))
	m.Finder.Sys, m.Finder.Dev = filepath.Join(dir, "sys"), filepath.Join(dir, "dev")
	return m
}

// toPrepared takes the disk from find to a detached mount.
func toPrepared(t *testing.T, ctx context.Context, m *Machine) (boot.Prepared, boot.Disk) {
	t.Helper()
	d, err := m.Find(ctx, ours)
	if err != nil {
		t.Fatal(err)
	}
	if d, err = m.Check(ctx, d); err != nil {
		t.Fatal(err)
	}
	p, err := m.Prepare(ctx, ours, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close(context.Background()) })
	return p, d
}

func TestMachineFromDiskToMountPoint(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	m := nvme(t, "mkfs.ext4", "-q", "-F")
	p, d := toPrepared(t, ctx, m)

	// The publisher's work, on the detached mount: a release of generation 3.
	same, err := mount.Prepare(d.Path, d.Kind) // the file system that the child holds
	if err != nil {
		t.Fatal(err)
	}
	defer same.Close()
	volume := open(t, same.Root())
	if err := p.CatchUp(ctx, boot.Wanted{SnapshotID: "snap-1"}); err != nil {
		t.Errorf("nothing to end on a volume of another kind: %v", err)
	}
	if err := volume.Init(os.Getuid(), os.Getgid()); err != nil {
		t.Fatal(err)
	}
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "hello"), []byte("world"), 0o644); err != nil {
		t.Fatal(err)
	}
	made, err := volume.Ingest(ctx, source, time.Now(), gc.Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	want := boot.Wanted{Generation: 3, Release: made.ID, Digest: made.Digest}
	if err := p.Check(ctx, want); err == nil {
		t.Error("a release that is not current passes the check")
	}
	if err := volume.Activate(ctx, made.ID, made.Digest, 3); err != nil {
		t.Fatal(err)
	}

	journal := filepath.Join(same.Root(), ".ebs-release/catch-up.journal")
	const lost, alsoLost = "20261122T231500Z-9f31c0de77aa", "20261122T231501Z-9f31c0de77ab"
	for _, tc := range []struct {
		from, to string
		end      error
	}{
		{lost, made.ID, nil}, // all of it was done but for the end
		{lost, alsoLost, boot.ErrMismatch},
	} {
		if err := os.WriteFile(journal, fmt.Appendf(nil, `{"from":%q,"to":%q}`, tc.from, tc.to), 0o600); err != nil {
			t.Fatal(err)
		}
		err := p.CatchUp(ctx, want)
		if _, left := os.Lstat(journal); !errors.Is(err, tc.end) || (left == nil) != (tc.end != nil) {
			t.Errorf("a catch-up from %s to %s that was cut off: %v, the journal: %v", tc.from, tc.to, err, left)
		}
	}
	if err := os.Remove(journal); err != nil {
		t.Fatal(err)
	}
	if err := p.CatchUp(ctx, want); err != nil {
		t.Error(err)
	}
	if err := p.Check(ctx, want); err != nil {
		t.Fatal(err)
	}
	other := want
	other.Digest = strings.Repeat("0", 64)
	if err := p.Check(ctx, other); err == nil {
		t.Error("another digest passes the check")
	}
	rolledBack := want
	rolledBack.Generation = 9
	if err := p.Check(ctx, rolledBack); err != nil {
		t.Errorf("an older snapshot in a newer generation: %v", err)
	}
	if generation, id, _ := p.Holding(ctx); generation != 9 || id != made.ID {
		t.Errorf("holds %d %s: want the fence raised to 9", generation, id)
	}
	if err := p.Check(ctx, want); err == nil {
		t.Error("a generation below the fence passes the check")
	}

	if mounted, err := m.Look(ctx, []boot.Volume{ours}); err != nil || mounted != nil {
		t.Fatalf("before place: %+v, %v", mounted, err)
	}
	if err := p.Place(ctx); err != nil {
		t.Fatal(err)
	}
	if err := m.Visible(ctx, ours, d); err != nil {
		t.Error(err)
	}
	mounted, err := m.Look(ctx, []boot.Volume{{ID: "vol-other"}, ours})
	if err != nil || mounted == nil || mounted.VolumeID != ours.ID || mounted.Tree.Check(ctx, rolledBack) != nil {
		t.Fatalf("after place: %+v, %v", mounted, err)
	}
	if mounted, err := m.Look(ctx, nil); err != nil || mounted.VolumeID != "" {
		t.Errorf("a volume that is not mine: %+v, %v", mounted, err)
	}
	if err := errors.Join(p.Close(ctx), volume.Close(), same.Close()); err != nil {
		t.Fatal(err)
	}
	if err := m.Unmount(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestForeignMountIsNoneOfMine(t *testing.T) {
	m := nvme(t, "mkfs.ext4", "-q", "-F")
	if err := unix.Mount("tmpfs", m.Point, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	mounted, err := m.Look(t.Context(), []boot.Volume{ours})
	if err != nil || mounted == nil || mounted.VolumeID != "" || !strings.Contains(mounted.What, "tmpfs") {
		t.Fatalf("%+v, %v", mounted, err)
	}
}

func TestMissingMountPointIsMade(t *testing.T) {
	m := nvme(t, "mkfs.ext4", "-q", "-F")
	if err := os.Remove(m.Point); err != nil {
		t.Fatal(err)
	}
	if mounted, err := m.Look(t.Context(), nil); err != nil || mounted != nil {
		t.Fatalf("%+v, %v", mounted, err)
	}
	if info, err := os.Stat(m.Point); err != nil || info.Mode().Perm() != 0o555 {
		t.Fatalf("%v, %v, want a directory of mode 0555", info, err)
	}
}

func TestBlankVolumeIsRefusedNotFormatted(t *testing.T) {
	m := nvme(t, "true") // no mkfs at all
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	d, err := m.Find(ctx, ours)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Check(ctx, d); err == nil || !strings.Contains(err.Error(), "blank") {
		t.Fatalf("error = %v", err)
	}
}

func TestVolumeOfAnOlderSetupHoldsNothingThatWeKnow(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	p, _ := toPrepared(t, ctx, nvme(t, "mkfs.ext3", "-q", "-F"))
	if generation, id, _ := p.Holding(ctx); generation != 0 || id != "" {
		t.Errorf("holds %d %q", generation, id)
	}
	if err := p.Check(ctx, boot.Wanted{Generation: 1, Release: manifest.NewID(time.Now(), strings.Repeat("a", 64)), Digest: strings.Repeat("a", 64)}); err == nil {
		t.Error("an empty volume passes the check")
	}
}

// Rows 80 and 83: what a child finds keeps its meaning, and its own words, on the way to the boot.
func TestWhatTheChildFindsKeepsItsMeaning(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	m := nvme(t, "mkfs.ext4", "-q", "-F")
	p, d := toPrepared(t, ctx, m)
	same, err := mount.Prepare(d.Path, d.Kind)
	if err != nil {
		t.Fatal(err)
	}
	defer same.Close()
	volume := open(t, same.Root())
	if err := volume.Init(os.Getuid(), os.Getgid()); err != nil {
		t.Fatal(err)
	}
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "hello"), []byte("world"), 0o644); err != nil {
		t.Fatal(err)
	}
	made, err := volume.Ingest(ctx, source, time.Now(), gc.Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	if err := volume.Activate(ctx, made.ID, made.Digest, 3); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.Place(ctx), p.Close(ctx)); err != nil {
		t.Fatal(err)
	}
	mounted, err := m.Look(ctx, []boot.Volume{ours})
	if err != nil {
		t.Fatal(err)
	}
	want := boot.Wanted{Generation: 3, Release: made.ID, Digest: made.Digest}
	lock, err := os.Open(filepath.Join(m.Point, ".ebs-release/lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := mounted.Tree.Check(ctx, want); err != nil {
		t.Errorf("right as it is, while a push holds the lock: %v", err)
	}
	other := want
	other.Digest = strings.Repeat("0", 64)
	if err := mounted.Tree.Check(ctx, other); !errors.Is(err, boot.ErrMismatch) {
		t.Errorf("another digest: %v, want a mismatch", err)
	}
	raised := want
	raised.Generation = 4
	soon, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err = mounted.Tree.Check(soon, raised)
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, boot.ErrMismatch) || !strings.Contains(fmt.Sprint(err), "Try: wait for the push to this member, then ebs-release-agent up") {
		t.Errorf("a higher generation, while a push holds the lock: %v", err)
	}
	lock.Close()
	if err := errors.Join(volume.Close(), same.Close()); err != nil {
		t.Fatal(err)
	}
	if err := m.Unmount(ctx); err != nil {
		t.Error(err)
	}
}
