package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"ebs-release/internal/lab/child"

	"golang.org/x/sys/unix"
)

// backing is what stands behind a file that fuse shows. Its methods are called side by side.
type backing interface {
	ReadAt(p []byte, at int64) (int, error)
	WriteAt(p []byte, at int64) (int, error)
	Sync() error
}

// fuse shows a backing as a file, in a file system that has nothing else and is mounted nowhere. It
// speaks the kernel's protocol itself (include/uapi/linux/fuse.h), as the libraries for it do not
// let a loop device read side by side (FUSE_ASYNC_DIO). A killed lab leaves nothing: the mount is a
// descriptor, and what waits for an answer gets EIO, by a child that outlives the lab for that.
type fuse struct {
	device int // of /dev/fuse
	mount  *os.File
	behind backing
	size   int64
	ended  chan struct{}
	guard  *child.Process
}

// The requests that a loop device comes to, and what INIT agrees on.
const (
	fuseForget      = 2
	fuseGetattr     = 3
	fuseSetattr     = 4
	fuseOpen        = 14
	fuseRead        = 15
	fuseWrite       = 16
	fuseStatfs      = 17
	fuseRelease     = 18
	fuseFsync       = 20
	fuseFlush       = 25
	fuseInit        = 26
	fuseInterrupt   = 36
	fuseDestroy     = 38
	fuseBatchForget = 42

	fuseAsyncRead = 1 << 0
	fuseBigWrites = 1 << 5
	fuseAsyncDIO  = 1 << 15
	fuseMaxPages  = 1 << 22

	fuseMajor, fuseMinor = 7, 31
	fuseInHeader         = 40
	fuseMaxData          = 1 << 20
	fuseAtOnce           = 128 // requests that the kernel may have under way
)

// newFuse mounts it, and answers until close.
func newFuse(behind backing, size int64) (f *fuse, err error) {
	f = &fuse{behind: behind, size: size, ended: make(chan struct{})}
	if f.device, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	if f.mount, err = mountFuse(f.device); err != nil {
		return nil, errors.Join(err, unix.Close(f.device))
	}
	go f.serve()
	if f.guard, err = guardFuse(f.mount); err != nil {
		return nil, errors.Join(err, f.close())
	}
	go func() {
		<-f.ended
		_ = f.guard.Cmd.Process.Signal(unix.SIGTERM)
	}()
	return f, nil
}

// endFuse has the kernel answer what nobody answers any more. The lab could not: one of its own
// threads may be among those who wait, and then the kernel keeps its end of the connection open.
const endFuse = `trap 'kill $!; echo 1 >&3; exit' TERM; sleep infinity & wait $!`

// guardFuse starts a child that ends the connection when this process is gone.
func guardFuse(mount *os.File) (*child.Process, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(mount.Fd()), &st); err != nil {
		return nil, fmt.Errorf("stat fuse: %w", err)
	}
	control, err := mountDetached("fusectl", "none")
	if err != nil {
		return nil, err
	}
	defer control.Close()
	abort, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d/%d/abort", control.Fd(), unix.Minor(st.Dev)), os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("how to end fuse: %w", err)
	}
	defer abort.Close()
	cmd := exec.Command("sh", "-c", endFuse)
	cmd.ExtraFiles = []*os.File{abort}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGTERM, Setpgid: true}
	return child.Start(cmd, nil)
}

func mountFuse(device int) (*os.File, error) {
	fs, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen fuse: %w", err)
	}
	defer unix.Close(fs)
	for _, o := range [][2]string{
		{"source", "cold"}, {"fd", fmt.Sprint(device)}, {"rootmode", fmt.Sprintf("%o", unix.S_IFREG|0o600)}, {"user_id", "0"}, {"group_id", "0"},
	} {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return nil, fmt.Errorf("mount fuse: set %s: %w", o[0], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("mount fuse: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOATIME)
	if err != nil {
		return nil, fmt.Errorf("mount fuse: fsmount: %w", err)
	}
	return os.NewFile(uintptr(fd), "fuse"), nil
}

// open opens the file. Not by os.OpenFile: that asks the file whether it can be polled, in a system
// call that the scheduler does not know to be slow, and the answer comes from this process.
func (f *fuse) open() (*os.File, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.mount.Fd()), unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "fuse"), nil
}

// close ends it. The answers go on as long as somebody has the file open: a loop device.
func (f *fuse) close() error { return f.mount.Close() }

func (f *fuse) serve() {
	defer close(f.ended)
	defer unix.Close(f.device)
	spare := sync.Pool{New: func() any { return new([fuseMaxData + 4096]byte) }}
	for {
		buffer := spare.Get().(*[fuseMaxData + 4096]byte) // the answer to one may come long after the next
		request := buffer[:]
		n, err := unix.Read(f.device, request)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOENT): // it was taken back
			continue
		case err != nil || n < fuseInHeader: // ENODEV: it is unmounted
			return
		}
		go func() {
			f.answer(request[:n])
			spare.Put(buffer)
		}()
	}
}

var order = binary.NativeEndian

func (f *fuse) answer(request []byte) {
	opcode, unique := order.Uint32(request[4:]), order.Uint64(request[8:])
	reply, failure := f.do(opcode, request[fuseInHeader:])
	if opcode == fuseForget || opcode == fuseBatchForget || opcode == fuseInterrupt {
		return
	}
	head := make([]byte, 16, 16+len(reply))
	if failure != 0 {
		reply = nil
	}
	order.PutUint32(head[0:], uint32(16+len(reply)))
	order.PutUint32(head[4:], uint32(-int32(failure)))
	order.PutUint64(head[8:], unique)
	_, _ = unix.Write(f.device, append(head, reply...)) // the kernel may have given it up
}

func (f *fuse) do(opcode uint32, in []byte) (out []byte, failure syscall.Errno) {
	switch opcode {
	case fuseInit:
		return initOut(in), 0
	case fuseGetattr, fuseSetattr:
		out = make([]byte, 16, 16+88)
		order.PutUint64(out, 1<<30) // valid for good
		return append(out, f.attributes()...), 0
	case fuseOpen:
		return make([]byte, 16), 0
	case fuseRead:
		out = make([]byte, order.Uint32(in[16:]))
		n, err := f.behind.ReadAt(out, int64(order.Uint64(in[8:])))
		if n == 0 && err != nil {
			return nil, unix.EIO
		}
		return out[:n], 0
	case fuseWrite:
		size := order.Uint32(in[16:])
		if _, err := f.behind.WriteAt(in[40:40+size], int64(order.Uint64(in[8:]))); err != nil {
			return nil, unix.EIO
		}
		return order.AppendUint64(nil, uint64(size)), 0 // size and padding
	case fuseFsync:
		if f.behind.Sync() != nil {
			return nil, unix.EIO
		}
		return nil, 0
	case fuseStatfs:
		return make([]byte, 80), 0
	case fuseRelease, fuseFlush, fuseDestroy, fuseForget, fuseBatchForget, fuseInterrupt:
		return nil, 0
	}
	return nil, unix.ENOSYS
}

// initOut is struct fuse_init_out.
func initOut(in []byte) []byte {
	out := make([]byte, 64)
	order.PutUint32(out[0:], fuseMajor)
	order.PutUint32(out[4:], fuseMinor)
	copy(out[8:12], in[8:12]) // max_readahead
	order.PutUint32(out[12:], order.Uint32(in[12:])&(fuseAsyncRead|fuseBigWrites|fuseAsyncDIO|fuseMaxPages))
	order.PutUint16(out[16:], fuseAtOnce)
	order.PutUint16(out[18:], fuseAtOnce)
	order.PutUint32(out[20:], fuseMaxData)
	order.PutUint32(out[24:], 1) // time_gran
	order.PutUint16(out[28:], fuseMaxData/4096)
	return out
}

// attributes is struct fuse_attr.
func (f *fuse) attributes() []byte {
	a := make([]byte, 88)
	order.PutUint64(a[0:], 1)
	order.PutUint64(a[8:], uint64(f.size))
	order.PutUint64(a[16:], uint64(f.size/512))
	order.PutUint32(a[60:], unix.S_IFREG|0o600)
	order.PutUint32(a[64:], 1)
	order.PutUint32(a[80:], 4096)
	return a
}
