package catchup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/pack"
	"ebs-release/internal/pointer"
	"ebs-release/internal/store"

	smithytime "github.com/aws/smithy-go/time"
)

const (
	stallTime  = 30 * time.Second // that a transfer may bring nothing
	wrongTries = 3                // of a pack that arrives whole and is another one: a cache on the way may have an old one
)

var errStalled = errors.New("nothing came for 30s")

// fetch brings a pack to the volume, in a file without a name, and compares it with its sha256. It
// tries again, from the beginning, until ctx ends or v.Tries are used up.
func (v *Volume) fetch(ctx context.Context, e pointer.Edge) (*os.File, error) {
	file, err := v.Scratch()
	if err != nil {
		return nil, err
	}
	err = v.try(ctx, e, func(from store.Reader) error { return download(ctx, from, e, file) })
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// try does something with a pack of the store, until it is done.
func (v *Volume) try(ctx context.Context, e pointer.Edge, do func(from store.Reader) error) error {
	place := "the store"
	fail := func(kind, cause error) error {
		return fmt.Errorf("fetch pack %s from %s: %w: %w", e.Pack, place, kind, cause)
	}
	wrong := 0
	for try := 1; ; try++ {
		from, err := v.Packs(ctx)
		if err == nil {
			place = from.String()
			err = do(from)
		}
		if err == nil {
			return nil
		}
		var said store.Error
		if e, ok := errors.AsType[*store.Error](err); ok {
			said = *e
		}
		_, disk := errors.AsType[*os.PathError](err)
		if errors.Is(err, pack.ErrSum) {
			wrong++
		}
		switch {
		case errors.Is(err, store.ErrNotFound):
			return fail(ErrGone, err)
		case errors.Is(err, store.ErrDenied):
			return fail(fmt.Errorf("%w, or may not be read from here", ErrGone), err)
		case disk:
			return fmt.Errorf("keep pack %s: %w", e.Pack, err)
		case wrong == wrongTries, said.Final, ctx.Err() != nil, try == v.Tries:
			return fail(ErrStore, err)
		}
		if smithytime.SleepWithContext(ctx, store.Backoff(try, said.Wait)) != nil {
			return fail(ErrStore, advice.Errorf("%w (%w after %d tries)", err, ctx.Err(), try))
		}
	}
}

// InReach says whether the store has the packs that To would need, and each is what the pointer
// says: nil, or what To would say. It reads them all and keeps nothing, as what is served may have
// no room, and may not be written to.
func (v *Volume) InReach(ctx context.Context, p pointer.Pointer) error {
	way, _, err := v.way(p, nil)
	for _, e := range way {
		if err != nil {
			break
		}
		err = v.try(ctx, e, func(from store.Reader) error {
			return transfer(ctx, from, e, func(body io.Reader) error { return pack.Check(body, sumOf(e)) })
		})
	}
	return finding(err)
}

func sumOf(e pointer.Edge) pack.Sum { return pack.Sum{Bytes: e.Bytes, SHA256: e.SHA256} }

// transfer has something done with what the store sends for a pack. It ends when nothing comes.
func transfer(ctx context.Context, from store.Reader, e pointer.Edge, do func(body io.Reader) error) error {
	ctx, moves, stop := watched(ctx)
	defer stop()
	object, err := from.Get(ctx, e.Pack, "")
	if err == nil {
		err = do(reader(func(p []byte) (int, error) { moves(); return object.Body.Read(p) }))
		err = errors.Join(err, object.Body.Close())
	}
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errStalled) {
		return cause
	}
	return err
}

// download is one try.
func download(ctx context.Context, from store.Reader, e pointer.Edge, file *os.File) error {
	if err := file.Truncate(0); err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	err := transfer(ctx, from, e, func(body io.Reader) error {
		_, err := io.Copy(file, io.LimitReader(body, e.Bytes+1)) // one more byte tells that it is another one
		return err
	})
	if err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := pack.Check(file, sumOf(e)); err != nil {
		return err
	}
	_, err = file.Seek(0, io.SeekStart)
	return err
}

// watched ends a transfer that stands still. moves is to be called whenever it goes on.
func watched(ctx context.Context) (_ context.Context, moves, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(stallTime, func() { cancel(errStalled) })
	return ctx, func() { timer.Reset(stallTime) }, func() { timer.Stop(); cancel(nil) }
}

type reader func([]byte) (int, error)

func (r reader) Read(into []byte) (int, error) { return r(into) }
