package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"

	"ebs-release/internal/manifest"
)

// Catching up in place: the tree that a volume holds becomes the next release, by a pack. Only what
// changed is touched, as each first read of a volume that comes from a snapshot is slow.
//
//  1. Everything that can fail for want of something comes first, beside the tree, which stays as
//     it is: the new manifest is made and its digest compared, contents are written and compared
//     with their sha256, files that only move get a further name. All of it is brought to disk.
//  2. A journal says that this is so. From here on there is one way, which needs neither network
//     nor room: the tree loses its name, each thing that was prepared is renamed to its place, what
//     is to go goes, all of it is brought to disk, and the tree gets its new name.
//
// Each step of the second part may be done twice. Whoever finds the journal does it again
// (FinishCatchUp), and removes it. Until then nobody else changes this volume (ErrHalfway). Before
// the journal nothing has happened.
//
// The caller sees to it that nobody serves this volume, or keeps a file of it open.
const (
	catchUpDir  = stateDir + "/catch-up" // 0, 1, …: what change 0, 1, … puts into the tree
	changesFile = "/changes"             // in there, and in besideDir
	mergedFile  = "/manifest"            // the same
	mergedPath  = catchUpDir + mergedFile
	ballastPath = catchUpDir + "/ballast"        // room that the second part may need, in directories
	journalPath = stateDir + "/catch-up.journal" // not in a directory of root's: the owner must see it, too
	changingExt = ".changing"                    // the tree, while it has no name
	maxJournal  = 4096
	minBallast  = 64 << 10             // bytes
	maxChanges  = 2 * manifest.MaxSize // bytes: all of one manifest gone, all of another one new
)

// ErrHalfway says that a CatchUp was cut off here. FinishCatchUp comes before all else.
var ErrHalfway = errors.New("the volume is on its way from one release to another")

// PackReader is a pack that is being read: what leads from one release to the next. Package pack
// has it.
type PackReader interface {
	Changes() iter.Seq2[manifest.Change, error]   // once, to their end; then
	Content(e *manifest.Entry) (io.Reader, error) // for each that HasContent, in their order; then
	End() error                                   // whether that was all of it
}

// Step is one pack, and the two releases.
type Step struct {
	From, FromDigest string // on the volume; empty: from nothing
	To, ToDigest     string
}

// journal is what the second part needs to know.
type journal struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// CatchUp makes release s.From into s.To, in place, and removes the first. `current` and the fence
// are the caller's: see Activate. An error before the journal leaves the volume as it was; after
// it, FinishCatchUp is the only way on.
func (v *Volume) CatchUp(ctx context.Context, s Step, pack PackReader) error {
	if err := errors.Join(manifest.CheckID(s.From), manifest.CheckID(s.To)); err != nil {
		return fmt.Errorf("catch up: %w", err)
	}
	err := v.hold(ctx, func() error {
		if _, err := v.finish(ctx); err != nil {
			return err
		}
		if err := v.isNew(s); err != nil {
			return err
		}
		began, err := justNow()
		if err != nil {
			return err
		}
		hides, err := v.prepare(ctx, s, pack, began)
		if err != nil {
			return errors.Join(whatIsFull(v.dir, err), v.removeTree(catchUpDir))
		}
		if _, err := v.finish(ctx); err != nil || hides {
			return err
		}
		return v.noteSpan(began)
	})
	if err != nil {
		return fmt.Errorf("catch up from release %s to %s: %w", s.From, s.To, err)
	}
	return nil
}

// isNew says that the release is not there yet; fs.ErrExist: it is.
func (v *Volume) isNew(s Step) error {
	if _, err := v.root.Lstat(releasesDir + "/" + s.To); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := v.checkRelease(s.To, s.ToDigest); err != nil {
		return err
	}
	return fmt.Errorf("%w: it can be activated as it is", fs.ErrExist)
}

// FinishCatchUp ends a CatchUp that was cut off after its journal was written. It returns the
// release that came out; "": there was none to end.
func (v *Volume) FinishCatchUp(ctx context.Context) (id string, err error) {
	err = v.hold(ctx, func() error {
		id, err = v.finish(ctx)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("finish catching up on %s: %w", v.path, err)
	}
	return id, nil
}

// Halfway says whether a CatchUp was cut off here.
func (v *Volume) Halfway() (bool, error) {
	_, err := v.root.Lstat(journalPath)
	if err == nil || errors.Is(err, fs.ErrNotExist) || otherShape(err) {
		return err == nil, nil
	}
	return false, fmt.Errorf("release volume %s: %w", v.path, err)
}
