package release

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// parallel lets produce hand jobs to as many workers as there are cores. A job that hand took is
// done, or ends with an error, in a worker; one that it did not take stays with produce. The first
// error ends all.
func parallel[T any](ctx context.Context, produce func(hand func(T) error) error, newWorker func() func(T) error) error {
	group, ctx := errgroup.WithContext(ctx)
	jobs := make(chan T)
	for range runtime.GOMAXPROCS(0) {
		work := newWorker()
		group.Go(func() error {
			for job := range jobs {
				if err := work(job); err != nil {
					return err
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		defer close(jobs)
		return produce(func(job T) error {
			select {
			case jobs <- job:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	return group.Wait()
}

// hasher reads files with one buffer and one hash, for one worker.
type hasher struct {
	buffer []byte
	hash   hash.Hash
}

func newHasher() *hasher { return &hasher{make([]byte, 256<<10), sha256.New()} }

// sum hashes what is left to read, and copies it to w, if any.
func (h *hasher) sum(from io.Reader, w io.Writer) (sum [sha256.Size]byte, size int64, err error) {
	h.hash.Reset()
	for {
		n, err := from.Read(h.buffer)
		_, _ = h.hash.Write(h.buffer[:n])
		if n > 0 && w != nil {
			if _, err := w.Write(h.buffer[:n]); err != nil {
				return sum, size, err
			}
		}
		size += int64(n)
		if errors.Is(err, io.EOF) {
			h.hash.Sum(sum[:0])
			return sum, size, nil
		}
		if err != nil {
			return sum, size, err
		}
	}
}

func hexSum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }
