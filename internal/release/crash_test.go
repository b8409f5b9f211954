package release

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"ebs-release/internal/gc"
	"ebs-release/internal/test/scratch"

	"golang.org/x/sys/unix"
)

// TestPowerMayFailAtEveryStepOfCatchingUpBeside: a member's push is stopped before each system call
// that changes something, and its disk is copied as it is then: once as if all until there had come
// to the disk, once as if nothing had that was not waited for. What a member finds on such a copy
// after its next boot is the release that was served, each that has a name whole, and the same pack
// ends with the next one. Once beside all that is there, once out of the oldest tree.
func TestPowerMayFailAtEveryStepOfCatchingUpBeside(t *testing.T) {
	t.Parallel()
	for how, volumes := range map[string]func(t *testing.T) (server, far *Volume, before, next Ingested, keep int){
		"a new tree": func(t *testing.T) (*Volume, *Volume, Ingested, Ingested, int) {
			server, far, before, next := history(t)
			return server, far, before, next, 0
		},
		"the oldest tree": func(t *testing.T) (*Volume, *Volume, Ingested, Ingested, int) {
			server, far, held, next := fleetOf(t)
			return server, far, held[2], next, 3
		},
	} {
		server, far, before, next, keep := volumes(t)
		text := packOf(t, server, before, next)
		n, err := far.Generation()
		stay, idsErr := far.Releases()
		if err := errors.Join(err, idsErr); err != nil {
			t.Fatal(err)
		}
		if keep > 0 { // all but the oldest
			stay = stay[1:]
		}
		one := call{
			Op: "catch up beside", ID: next.ID, Digest: next.Digest, Base: before.ID, BaseDigest: before.Digest, Generation: n + 1, Keep: keep,
		}
		for name, synced := range map[string]bool{"all on disk": true, "only what was waited for": false} {
			t.Run(how+", "+name, func(t *testing.T) {
				t.Parallel()
				points, looked := powerCuts(t, far, one, text, synced, func(v *Volume, when string) {
					bootBeside(t, v, when, one, stay, text)
				}, func(v *Volume) {
					whole(t, v, "undisturbed", append(slices.Clone(stay), next.ID)...)
					same(t, server.Path(next.ID), v.Path(next.ID))
				})
				t.Logf("catch-up beside, crash matrix: %d points, %d different disks", points, looked)
				if points < 60 || synced && looked < 40 || looked < 3 {
					t.Error("test bug: catching up was hardly seen")
				}
			})
		}
	}
}

// powerCuts runs a call on a copy of a volume, in a process of its own, and stops it before each
// system call that changes something: as often as points says. The disk is copied as it is then,
// after a sync or without one, and look gets each copy that is another one: what a member would
// find after the power had failed. undisturbed gets what comes out in the end.
func powerCuts(
	t *testing.T, of *Volume, one call, stdin []byte, synced bool, look func(v *Volume, when string), undisturbed func(*Volume),
) (points, looked int) {
	t.Helper()
	// In a mount namespace of its own, which this thread ends with: any namespace that somebody
	// makes elsewhere has a copy of all mounts, and a file system that is still mounted there is
	// found again as it was, whatever is written to its device.
	runtime.LockOSThread()
	if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")); err != nil {
		t.Fatal(err)
	}
	disk, afterwards := newDisk(t), newDisk(t)
	disk.attach(t)
	copyTo(t, of, disk.volume)
	disk.sync(t)
	one.Root = disk.mount
	seen, seed := map[uint64]bool{}, maphash.MakeSeed()
	traced(t, one, stdin, func(what string) {
		points++
		if synced {
			disk.sync(t)
		}
		image := disk.read(t)
		sum := maphash.Bytes(seed, image)
		if seen[sum] {
			return
		}
		seen[sum] = true
		looked++
		afterwards.become(t, image)
		afterwards.attach(t)
		look(afterwards.volume, fmt.Sprintf("point %d, before %s", points, what))
		afterwards.detach(t)
	})
	undisturbed(disk.volume)
	disk.detach(t)
	return points, looked
}

// bootBeside looks at what a member would find, stay among it, and catches up once more.
func bootBeside(t *testing.T, tree *Volume, when string, one call, stay []string, text []byte) {
	t.Helper()
	before, next := Ingested{ID: one.Base, Digest: one.BaseDigest}, Ingested{ID: one.ID, Digest: one.Digest}
	current, err := tree.Current()
	ids, idsErr := tree.Releases()
	if err := errors.Join(err, idsErr); err != nil || current != before.ID && current != next.ID || !slices.Contains(ids, current) {
		t.Fatalf("%s: current is %q of %v, %v", when, current, ids, err)
	}
	for _, id := range stay {
		if !slices.Contains(ids, id) {
			t.Fatalf("%s: left are %v, want %s, too", when, ids, id)
		}
	}
	for _, id := range ids {
		if err := tree.Verify(t.Context(), id); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
	err = catchUpBeside(t.Context(), tree, before, next, bytes.NewReader(text), one.Keep)
	if err != nil && (!errors.Is(err, fs.ErrExist) || !slices.Contains(ids, next.ID)) {
		t.Fatalf("%s: once more: %v", when, err)
	}
	if err := tree.Activate(t.Context(), next.ID, next.Digest, one.Generation); err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	if err := tree.Check(next.ID, next.Digest, one.Generation); err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	whole(t, tree, when, append(slices.Clone(stay), next.ID)...)
	if _, err := tree.Prune(t.Context(), gc.Wanted{Keep: 5}); err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	if left := listing(t, tree); strings.Contains(left, partialExt) {
		t.Fatalf("%s: left behind:\n%s", when, left)
	}
}

// disk is a loop device with an ext4 file system, in memory: it is written to often.
type disk struct {
	image       *os.File // which has no name any more, so that nothing is left of a test that is killed
	loop, mount string
	volume      *Volume // while it is attached

	now, before []byte // of read
}

func newDisk(t *testing.T) *disk { return diskOf(t, 5<<20, "-b", "1024", "-J", "size=1") }

func diskOf(t testing.TB, bytes int64, options ...string) *disk {
	t.Helper()
	file, err := os.CreateTemp("/dev/shm", "disk")
	if err != nil {
		t.Fatal(err)
	}
	d := &disk{image: file, mount: t.TempDir(), now: make([]byte, bytes), before: make([]byte, bytes)}
	t.Cleanup(func() { _ = file.Close() })
	t.Cleanup(func() { _ = os.Remove(file.Name()) }) // where it did not get to the end of this
	if err := file.Truncate(bytes); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "mkfs.ext4", append([]string{"-q", "-F", file.Name()}, options...)...).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	d.loop = scratch.Loop(t, file.Name())
	if err := os.Remove(file.Name()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(d.mount, unix.MNT_DETACH) }) // when a test ended half way
	return d
}

func (d *disk) attach(t testing.TB) {
	t.Helper()
	if err := unix.Mount(d.loop, d.mount, "ext4", unix.MS_NOATIME, ""); err != nil {
		t.Fatalf("mount %s: %v", d.loop, err)
	}
	var err error
	if d.volume, err = Open(d.mount); err != nil {
		t.Fatal(err)
	}
}

func (d *disk) detach(t testing.TB) {
	t.Helper()
	err := errors.Join(d.volume.Close(), unix.Unmount(d.mount, 0))
	// From its fork until its exec is through, a child of a test beside this one has all open files.
	for end := time.Now().Add(10 * time.Second); errors.Is(err, unix.EBUSY) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
		err = unix.Unmount(d.mount, 0)
	}
	if err != nil {
		t.Errorf("unmount %s: %v", d.mount, err)
	}
}

func (d *disk) sync(t testing.TB) {
	t.Helper()
	dir, err := os.Open(d.mount)
	if err == nil {
		err = errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// read returns what is on the disk, at one moment: the kernel may write to it meanwhile. The next
// read may overwrite it.
func (d *disk) read(t *testing.T) []byte {
	t.Helper()
	for again := false; ; again = true {
		if _, err := d.image.ReadAt(d.now, 0); err != nil {
			t.Fatal(err)
		}
		if again && bytes.Equal(d.now, d.before) {
			return d.now
		}
		d.now, d.before = d.before, d.now
	}
}

// become makes the disk, which is attached nowhere, equal to an image. Few of its blocks differ.
func (d *disk) become(t *testing.T, image []byte) {
	t.Helper()
	loop, err := os.OpenFile(d.loop, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = loop.Close() }()
	const block = 4096
	has := d.read(t)
	for at := 0; at < len(image); at += block {
		if want := image[at : at+block]; !bytes.Equal(has[at:at+block], want) {
			if _, err := loop.WriteAt(want, int64(at)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// traced runs a call in a process of its own, and calls stop before each of its system calls that
// change something.
func traced(t *testing.T, c call, stdin []byte, stop func(what string)) {
	t.Helper()
	runtime.LockOSThread() // a tracee has one thread for a tracer
	defer runtime.UnlockOSThread()
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	in, err := os.CreateTemp(t.TempDir(), "stdin")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	if _, err := in.WriteAt(stdin, 0); err != nil {
		t.Fatal(err)
	}
	p, err := os.StartProcess("/proc/self/exe", []string{c.Op}, &os.ProcAttr{
		Env: []string{"RELEASE_TEST_OP=" + string(data)}, Files: []*os.File{in, null, os.Stderr}, Sys: &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Kill() }()
	threads := map[int]bool{}
	var ws unix.WaitStatus
	for {
		tid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case tid == p.Pid && ws.Exited():
			if ws.ExitStatus() != 0 {
				t.Fatalf("the call failed, see above: exit code %d", ws.ExitStatus())
			}
			return
		case !ws.Stopped():
			continue
		}
		signal := 0
		switch s := ws.StopSignal(); {
		case len(threads) == 0:
			if err := unix.PtraceSetOptions(tid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_EXITKILL); err != nil {
				t.Fatal(err)
			}
		case s == unix.SIGTRAP|0x80:
			if what := change(tid); what != "" {
				stop(what)
			}
		case s == unix.SIGTRAP, s == unix.SIGSTOP && !threads[tid]:
		default:
			signal = int(s)
		}
		threads[tid] = true
		_ = unix.PtraceSyscall(tid, signal)
	}
}

// change names the system call that a thread stands before, if it is one that changes something.
func change(tid int) string {
	const getSyscallInfo, entry = 0x420e, 1 // linux/ptrace.h
	var info [88]byte
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(tid), uintptr(len(info)), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 || info[0] != entry {
		return ""
	}
	number := binary.NativeEndian.Uint64(info[24:])
	argument := func(n int) uint64 { return binary.NativeEndian.Uint64(info[32+8*n:]) }
	switch number {
	case unix.SYS_OPENAT:
		if argument(2)&unix.O_CREAT != 0 {
			return "create"
		}
	case unix.SYS_WRITE:
		if argument(0) > 2 {
			return "write"
		}
	}
	return map[uint64]string{
		unix.SYS_FSYNC: "fsync", unix.SYS_FALLOCATE: "fallocate", unix.SYS_SYNCFS: "syncfs", unix.SYS_FCHMOD: "fchmod", unix.SYS_FCHMODAT: "fchmodat", unix.SYS_FCHOWN: "fchown",
		unix.SYS_FCHOWNAT: "fchownat", unix.SYS_UTIMENSAT: "utimensat", unix.SYS_MKDIRAT: "mkdirat", unix.SYS_UNLINKAT: "unlinkat",
		unix.SYS_SYMLINKAT: "symlinkat", unix.SYS_LINKAT: "linkat", unix.SYS_RENAMEAT: "renameat", unix.SYS_RENAMEAT2: "renameat2",
	}[number]
}
