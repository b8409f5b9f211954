package release

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Proof reads past the page cache (O_DIRECT). What it reads is what the disk has, also where the
// cache has something better; each read reaches EBS; and no page of the application's is dropped
// from memory for a file that is read once.

const (
	chunkSize = 512 << 10 // the block in which EBS loads a snapshot ("Amazon EBS direct APIs": 512 KiB)
	directBy  = 4096      // offsets, lengths and addresses of direct reads are multiples of a disk's block
)

// buffers bound how many reads go on, and what memory they take.
type buffers chan []byte

func newBuffers(n int) buffers {
	b := make(buffers, n)
	for range n {
		raw := make([]byte, chunkSize+directBy)
		skip := int(-uintptr(unsafe.Pointer(&raw[0])) & (directBy - 1))
		b <- raw[skip : skip+chunkSize : skip+chunkSize]
	}
	return b
}

// chunk is a part of a file, read.
type chunk struct {
	buffer []byte
	n      int
	err    error
}

// sum hashes a file of that size, which may not be longer. Its parts are read side by side: one
// reader alone is slow on a disk that is loaded from elsewhere.
func (b buffers) sum(ctx context.Context, file *os.File, size int64, moves func(n int)) (sum [sha256.Size]byte, err error) {
	fd := int(file.Fd())
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err == nil {
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags|unix.O_DIRECT) // a file system that has no such thing reads as ever
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	parts := make(chan chan chunk, cap(b))
	go func() {
		defer close(parts)
		for at := int64(0); at == 0 || at < size; at += chunkSize {
			var buffer []byte
			select { // in order: who waits for the first part must not wait for the buffers of later ones
			case buffer = <-b:
			case <-ctx.Done():
				return
			}
			part := make(chan chunk, 1)
			parts <- part
			go func() {
				n, err := readDirect(fd, buffer, at)
				part <- chunk{buffer, n, err}
			}()
		}
	}()
	h, total := sha256.New(), int64(0)
	for part := range parts { // to the end, as the buffers have to come back
		got := <-part
		if err == nil {
			_, _ = h.Write(got.buffer[:got.n])
			total += int64(got.n)
			moves(got.n)
			switch want := min(chunkSize, size-total+int64(got.n)); {
			case got.err != nil:
				err = got.err
			case int64(got.n) != want:
				err = errOther
			}
			if err != nil {
				cancel()
			}
		}
		b <- got.buffer
	}
	if err == nil && total != size {
		err = errors.Join(ctx.Err(), errOther)
	}
	h.Sum(sum[:0])
	return sum, err
}

// readDirect fills a buffer from a file. Where the end of the file, or the file system, does not
// suit direct reads, it reads as ever.
func readDirect(fd int, buffer []byte, at int64) (n int, err error) {
	for n < len(buffer) {
		got, err := unix.Pread(fd, buffer[n:], at+int64(n))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EINVAL):
			flags, flagErr := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			if flagErr != nil || flags&unix.O_DIRECT == 0 {
				return n, err
			}
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags&^unix.O_DIRECT); err != nil {
				return n, err
			}
			continue
		case err != nil:
			return n, err
		case got == 0:
			return n, nil
		}
		n += got
		if got%directBy != 0 { // the end: a further read would not be aligned
			return n, nil
		}
	}
	return n, nil
}
