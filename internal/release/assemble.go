package release

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

var (
	// errOrigin: a file that was to be copied is not what its manifest says.
	errOrigin = errors.New("is not what its manifest says")
	// ErrBase says that the release to start from is damaged, or another one.
	ErrBase = errors.New("the release that it starts from cannot be used")
)

// assembly makes a tree what a manifest says, out of whatever is in it: nothing, or an older
// release that nobody needs any more. What is the base's own file already stays, so that a tree
// which is much like the base costs a look at each file, not a new name for each. What does not
// belong there goes. Nothing is ever written in place: a file may be a hard link to a release that
// is in use.
type assembly struct {
	// entries gives those of the manifest in their order, as often as it is asked. It ends with the
	// first error.
	entries func(ctx context.Context, do func(planned) error) error
	base    *os.File      // tree to link from; nil: there is none
	whole   unix.Timespec // when the base was whole. A file of it that was written to later is not taken for what its manifest says
	spans   spans         // see noteSpan. A file of the base whose ctime is in none of them is hashed before it is taken
	copies  *os.File      // tree to copy from
	// copyAs says whether an entry is to be copied, and from which path below copies. What is not
	// is left out.
	copyAs func(planned) (path string, ok bool)
	who    owner
	began  unix.Timespec // see justNow. What is written to a file of the new tree from here on is told by its time

	// While build runs:
	to, from, elsewhere, original *dirs // the tree, the same place in the base, another one in it, copies
	names                         lister
	hand                          func(job) error
	mu                            sync.Mutex
	again                         []place // of jobs that could not be done; guarded by mu
	shared                        []int64 // see share; guarded by mu
	// After it:
	pendingModes []pendingMode
	settled      unix.Timespec // see settle
	hides        bool          // an edit of somebody else may have lost its trace here: no noteSpan
}

// planned is an entry of the manifest, and how it comes to be.
type planned struct {
	index int // in the manifest
	entry *manifest.Entry
	step  step
}

// pendingMode is of a directory whose mode is not yet that of the manifest.
type pendingMode struct {
	path string
	mode uint32
}

// fromBase is copyAs where all that can be copied is in the base.
func fromBase(w planned) (path string, ok bool) { return w.step.from, w.step.how != isMissing }

// job is a file to copy or, without to, one of the base to link if it is what the manifest says.
type job struct {
	from, to *os.File
	place
}

// build does all but the modes of directories, which stay open to their owner: see seal.
func (a *assembly) build(ctx context.Context, partial *os.File) error {
	var err error
	if a.began, err = justNow(); err != nil {
		return err
	}
	a.to, a.from, a.elsewhere, a.original = &dirs{root: partial}, &dirs{root: a.base}, &dirs{root: a.base}, &dirs{root: a.copies}
	defer func() {
		for _, d := range []*dirs{a.to, a.from, a.elsewhere, a.original} {
			d.close()
		}
	}()
	if err = a.work(ctx, func() error { return a.all(ctx) }); err == nil && len(a.again) > 0 {
		err = a.tryAgain(ctx)
	}
	return whatIsFull(partial, err)
}

// tryAgain copies what could not be linked.
func (a *assembly) tryAgain(ctx context.Context) error {
	again := a.again
	a.again = nil
	slices.SortFunc(again, func(x, y place) int { return x.index - y.index })
	return a.work(ctx, func() error {
		for _, p := range again {
			if err := errors.Join(ctx.Err(), a.vacate(&p)); err != nil {
				return err
			}
			if err := a.copy(p); err != nil {
				return pathError("make", p.entry.Path, err)
			}
		}
		return nil
	})
}

// vacate opens the directory of a place once more, and takes away what is there.
func (a *assembly) vacate(p *place) (err error) {
	if p.dir, p.name, err = a.to.parent(p.entry.Path); err != nil {
		return err
	}
	if err := removeAt(p.dir, p.name); err != nil {
		return pathError("remove", p.entry.Path, err)
	}
	return nil
}

// work lets produce hand out jobs.
func (a *assembly) work(ctx context.Context, produce func() error) error {
	return parallel(ctx, func(hand func(job) error) error {
		a.hand = hand
		return produce()
	}, func() func(job) error {
		h := newHasher()
		return func(j job) error {
			if err := a.do(h, j); err != nil {
				return pathError("write", j.entry.Path, err)
			}
			return nil
		}
	})
}

// do ends a job. One that cannot be done is tried in another way.
func (a *assembly) do(h *hasher, j job) error {
	defer j.close()
	if j.to == nil {
		if linked, err := a.linkIfRight(h, j); linked || err != nil {
			return err
		}
	} else {
		return errors.Join(a.fill(h, j), j.to.Close())
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.again = append(a.again, j.place)
	return nil
}

func (j *job) close() {
	_ = j.from.Close()
	if j.to == nil {
		_ = unix.Close(j.dir)
	}
}

// seal gives directories the modes of the manifest, once nothing more has to be put into them.
func (a *assembly) seal(partial *os.File) error {
	directories := &dirs{root: partial}
	defer directories.close()
	for n := len(a.pendingModes) - 1; n >= 0; n-- { // what is below a directory before itself
		d := a.pendingModes[n]
		fd, err := directories.directory(d.path)
		if err != nil {
			return err
		}
		if err := unix.Fchmod(fd, d.mode); err != nil {
			return pathError("chmod", d.path, err)
		}
	}
	return nil
}

func pathError(op, path string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	// An error that has a path already says enough.
	if _, ok := errors.AsType[*os.PathError](err); ok {
		return err
	}
	return fmt.Errorf("%s %s: %w", op, manifest.Quote(path), err)
}
