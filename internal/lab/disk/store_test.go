package disk

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func openStore(t *testing.T) *Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := Open(ctx, t.TempDir(), "ebs-lab-test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	if s.image == nil {
		t.Fatal("the store has no reflinks: is xfsprogs installed?")
	}
	return s
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
}

func attachTo(t *testing.T, s *Store, volumeID string) *Device {
	t.Helper()
	d, err := s.Attach(volumeID)
	do(t, err)
	t.Cleanup(func() { d.fd.Close() })
	return d
}

// mounted mounts the device for the time of f.
func mounted(t *testing.T, d *Device, fstype, data string, f func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	do(t, unix.Mount(d.Path, dir, fstype, 0, data))
	defer func() { do(t, unix.Unmount(dir, 0)) }()
	f(dir)
}

func TestVolumeFromSnapshotHoldsTheBytesOfThatMoment(t *testing.T) {
	s := openStore(t)
	do(t, s.CreateVolume("vol-1", 8, ""))
	d := attachTo(t, s, "vol-1")
	if d.Bytes != 8*gib {
		t.Errorf("an 8 GiB volume shows as %d bytes", d.Bytes)
	}
	run(t, "mkfs.ext4", "-q", d.Path)
	mounted(t, d, "ext4", "", func(dir string) {
		do(t, os.WriteFile(filepath.Join(dir, "file"), []byte("one"), 0o644))
		fd, err := os.Open(dir)
		do(t, err)
		defer fd.Close()
		do(t, unix.Syncfs(int(fd.Fd())))
		do(t, s.CreateSnapshot("snap-1", "vol-1")) // while mounted, as a release volume is
		do(t, os.WriteFile(filepath.Join(dir, "file"), []byte("two"), 0o644))
	})

	do(t, s.CreateVolume("vol-2", 9, "snap-1"))
	do(t, s.DeleteSnapshot("snap-1"))
	copied := attachTo(t, s, "vol-2")
	if copied.Bytes != 9*gib {
		t.Errorf("a volume made larger than its snapshot shows as %d bytes", copied.Bytes)
	}
	mounted(t, copied, "ext4", "", func(dir string) {
		got, err := os.ReadFile(filepath.Join(dir, "file"))
		do(t, err)
		if string(got) != "one" {
			t.Errorf("the volume from the snapshot holds %q", got)
		}
	})
	mounted(t, d, "ext4", "", func(dir string) {
		got, err := os.ReadFile(filepath.Join(dir, "file"))
		do(t, err)
		if string(got) != "two" {
			t.Errorf("the volume itself holds %q", got)
		}
	})
}

func TestVolumeSmallerThanItsSnapshotIsRefused(t *testing.T) {
	s := openStore(t)
	do(t, s.CreateVolume("vol-1", 2, ""))
	do(t, s.CreateSnapshot("snap-1", "vol-1"))
	if err := s.CreateVolume("vol-2", 1, "snap-1"); err == nil || !strings.Contains(err.Error(), "vol-2") {
		t.Errorf("error is %v", err)
	}
}

func TestUnknownIDsAreErrors(t *testing.T) {
	s := openStore(t)
	for name, err := range map[string]error{
		"volume from no snapshot": s.CreateVolume("vol-1", 1, "snap-none"),
		"snapshot of no volume":   s.CreateSnapshot("snap-1", "vol-none"),
		"delete no volume":        s.DeleteVolume("vol-none"),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := s.Attach("vol-none"); err == nil {
		t.Error("attach no volume: no error")
	}
}

func TestClosedStoreLeavesNoDevice(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := Open(ctx, dir, "ebs-lab-leak", slog.New(slog.DiscardHandler))
	do(t, err)
	do(t, s.CreateVolume("vol-leak", 1, ""))
	first, err := s.Attach("vol-leak")
	do(t, err)
	do(t, s.CreateVolume("vol-leak-2", 1, ""))
	_, err = s.Attach("vol-leak-2") // never closed by its owner
	do(t, err)
	do(t, first.Close())
	do(t, first.Gone(ctx))
	image := s.image.device
	do(t, s.Close(ctx))
	for _, d := range append(s.devices, image, first) {
		if d.inUse() {
			t.Errorf("%s still has file %+v behind it", d.Path, d.backing)
		}
	}
}

func TestCloseNamesADeviceThatIsStillMounted(t *testing.T) {
	s := openStore(t)
	do(t, s.CreateVolume("vol-1", 1, ""))
	d := attachTo(t, s, "vol-1")
	run(t, "mkfs.xfs", "-q", d.Path)
	mounted(t, d, "xfs", "", func(string) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		do(t, d.Close())
		if err := d.Gone(ctx); err == nil || !strings.Contains(err.Error(), d.Path) {
			t.Errorf("error is %v", err)
		}
	})
}

func TestSparseCopyKeepsBytesAndHoles(t *testing.T) {
	dir := t.TempDir()
	src, err := os.Create(filepath.Join(dir, "src"))
	do(t, err)
	defer src.Close()
	dst, err := os.Create(filepath.Join(dir, "dst"))
	do(t, err)
	defer dst.Close()
	const size = 64 << 20
	do(t, src.Truncate(size))
	for _, at := range []int64{0, 10 << 20, size - 4096} {
		_, err := src.WriteAt(bytes.Repeat([]byte("x"), 4096), at)
		do(t, err)
	}
	do(t, copySparse(dst, src))
	var st unix.Stat_t
	do(t, unix.Fstat(int(dst.Fd()), &st))
	if st.Size != size || st.Blocks*512 > 1<<20 {
		t.Errorf("the copy has %d bytes in %d blocks", st.Size, st.Blocks)
	}
	a, err := io.ReadAll(io.NewSectionReader(src, 0, size))
	do(t, err)
	b, err := io.ReadAll(io.NewSectionReader(dst, 0, size))
	do(t, err)
	if !bytes.Equal(a, b) {
		t.Error("the copy differs from its source")
	}
}
