package disks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/boot"
	"ebs-release/internal/freeze"
	"ebs-release/internal/mount"
	"ebs-release/internal/test/scratch"

	"golang.org/x/sys/unix"
)

// Row 80: the disk takes no writes any more, since the file system below it is frozen, and nothing
// can end a process that waits for it.
func TestADiskThatStopsAnsweringHoldsNobody(t *testing.T) {
	below := t.TempDir()
	if err := mount.Mount(scratch.Disk(t, 32<<20, "mkfs.ext4", "-q", "-F"), "ext4", below); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(below, unix.UMOUNT_NOFOLLOW) })
	command := func(argv ...string) string {
		t.Helper()
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", argv, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	image := filepath.Join(below, "image")
	command("truncate", "-s", "8M", image)
	command("mkfs.ext4", "-q", "-F", image)
	loop := scratch.Loop(t, image)

	m := nvme(t, "true")
	if err := freeze.Freeze(below); err != nil {
		t.Fatal(err)
	}
	thawed := false
	thaw := func() {
		if !thawed {
			thawed = true
			if err := freeze.Thaw(below); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(thaw)
	w, err := startWorker(m.Log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	_, err = w.do(ctx, diskRequest{Do: doPrepare, Device: loop, Kind: "ext4"})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(fmt.Sprint(err), "does not come to an end (process") || errors.Is(err, boot.ErrMismatch) {
		t.Errorf("a mount of it: %v", err)
	}
	if err := w.close(ctx); err == nil || !strings.Contains(err.Error(), "cannot be ended") {
		t.Errorf("the end of the child: %v: it did not hang as a disk lets it hang", err)
	}
	if took := time.Since(began); took > time.Second+answerGrace+workerGrace+killGrace+5*time.Second {
		t.Errorf("it took %v", took)
	}
	// The child has nothing of this process but its two pipes: no lock, no socket.
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", w.process.Pid, f.Name()))
		if strings.HasPrefix(to, "socket:") || strings.HasSuffix(to, "/lock") {
			t.Errorf("the child holds %s", to)
		}
	}
	thaw()
	select {
	case <-w.ended:
	case <-time.After(30 * time.Second):
		t.Error("the child stays, though the disk answers")
	}
}

// A kernel that is older than the mkfs says "invalid argument"; what it does not know is said
// beside that.
func TestAFeatureThatTheKernelDoesNotKnowIsNamed(t *testing.T) {
	device := scratch.Disk(t, 32<<20, "mkfs.ext4", "-q", "-F", "-O", "^metadata_csum")
	f, err := os.OpenFile(device, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	// Above filetype, extent, 64bit and flex_bg, a bit that no kernel knows yet: the word is at
	// 0x60 of the superblock.
	if _, err := f.WriteAt([]byte{0xc2, 0x02, 0, 0x40}, 1024+0x60); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	var w diskWork
	_, err = w.do(t.Context(), diskRequest{Do: doPrepare, Device: device, Kind: "ext4"})
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "incompat 0x40000000") {
		t.Errorf("got %v", err)
	}
}
