package release

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/gc"
	"ebs-release/internal/manifest"

	"golang.org/x/sync/errgroup"
)

// Ingested is a release that is on the release server's volume, whole, and not active yet.
type Ingested struct {
	ID          string
	Digest      string
	Files       int              // in the release
	Bytes       int64            // in the release
	CopiedFiles int              // that were not linked to the release before
	Changes     manifest.Changes // from the current release to this one, also when it is Reused
	CopiedBytes int64
	Previous    string   // the current release; "" when this is the first one
	Reused      bool     // the volume had a release with this digest already: ID is that one's
	LeftBehind  []string // what SOURCE has that a release does not carry, a line for each kind
}

// Ingest takes SOURCE in: a directory, or what rsync can fetch (host:path, rsync://…). Files that
// the current release has become hard links to it, the others are copied. `current` stays as it is.
// The oldest release becomes the new one where nobody needs it: see recycle. After an error the
// volume is as it was, but for that one and those that had to make room.
func (v *Volume) Ingest(ctx context.Context, source string, now time.Time, wanted gc.Wanted) (Ingested, error) {
	var result Ingested
	err := v.locked(ctx, func() error {
		// First of all, because what a crash left behind takes up room.
		if _, err := v.sweep(); err != nil {
			return err
		}
		if err := v.removeFetched(); err != nil {
			return err
		}
		from, err := v.openSource(ctx, source)
		if IsRemote(source) {
			defer func() { _ = v.removeFetched() }()
		}
		if err != nil {
			return err
		}
		defer func() { _ = from.Close() }()
		var k *known
		if !IsRemote(source) { // what was fetched just now nobody knows
			k = v.knownOf(from, false)
		}
		result, err = v.ingest(ctx, from, k, now, wanted)
		if errors.Is(err, ErrChanged) { // unless what is remembered is wrong
			err = errors.Join(err, v.forget())
		}
		return err
	})
	if err != nil {
		return Ingested{}, fmt.Errorf("take in %s: %w", source, err)
	}
	return result, nil
}

func (v *Volume) openSource(ctx context.Context, source string) (*os.File, error) {
	if IsRemote(source) {
		return v.fetch(ctx, source)
	}
	if err := v.checkSource(source); err != nil {
		return nil, err
	}
	return openSourceDir(source)
}

// checkSource refuses what cannot be meant.
func (v *Volume) checkSource(source string) error {
	dir, err := filepath.EvalSymlinks(source)
	if err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return errors.New("it is not a directory")
	}
	volume, err := filepath.EvalSymlinks(v.path)
	if err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if below, err := filepath.Rel(dir, volume); err == nil && below != ".." && !strings.HasPrefix(below, "../") {
		return fmt.Errorf("it holds the release volume %s itself", v.path)
	}
	return nil
}

func (v *Volume) ingest(ctx context.Context, source *os.File, k *known, now time.Time, wanted gc.Wanted) (Ingested, error) {
	seen, err := scan(ctx, source, k)
	if err != nil {
		return Ingested{}, err
	}
	next := manifestOf(seen)
	if err := next.Validate(); err != nil {
		return Ingested{}, err
	}
	left, err := attributesLeftBehind(int(source.Fd()))
	if err != nil {
		return Ingested{}, fmt.Errorf("read it: %w", err)
	}
	result := Ingested{LeftBehind: tellLeftBehind(left, seen)}
	if result.Files, result.Bytes = next.Size(); result.Files == 0 {
		return Ingested{}, errors.New("there are no files in it")
	}
	if result.Previous, err = v.Current(); err != nil {
		return Ingested{}, err
	}
	base := &Tree{}
	if result.Previous != "" {
		// A current release that cannot be read is no reason to stop: without it, everything is
		// copied.
		if held, err := v.openTree(result.Previous); err == nil {
			base = held
			defer base.close()
		}
	}
	setTimes(next, seen, base.manifest, source, now)
	text := next.Text()
	if err := manifest.CheckSize(len(next), len(text)); err != nil { // members could not read it
		return Ingested{}, err
	}
	result.Changes = manifest.Count(base.manifest, next)
	result.Digest = manifest.DigestOf(text)
	if id := v.withDigest(ctx, result.Digest, result.Previous); id != "" {
		result.ID, result.Reused = id, true
		if err := unchanged(ctx, source, seen); err != nil {
			return Ingested{}, err
		}
		v.remember(k, seen)
		return result, nil
	}
	releases, err := v.Releases()
	if err != nil {
		return Ingested{}, err
	}
	result.ID = manifest.NextID(releases, now, result.Digest)

	steps := plan(base.manifest, next)
	for i := range next {
		if next[i].Type == 'f' && steps[i].how != byLink {
			result.CopiedFiles++
			result.CopiedBytes += next[i].Size
		}
	}
	a := &assembly{entries: entriesOf(next, steps), base: base.dir, whole: base.whole, spans: base.spans, copies: source,
		copyAs: func(w planned) (string, bool) { return w.entry.Path, true }}
	if err = v.makeRoom(ctx, result.CopiedBytes, wanted, result.Previous); err != nil {
		return Ingested{}, err
	}
	if base.dir == nil { // nothing of an old tree could stay
		wanted.Keep = 0
	}
	// What is copied is compared with what scan saw. So SOURCE is looked at once more while that
	// goes on, not after it.
	ctx, stop := context.WithCancel(ctx)
	var again errgroup.Group
	again.Go(func() error { return unchanged(ctx, source, seen) })
	err = v.take(ctx, result, text, a, wanted, again.Wait)
	stop()
	_ = again.Wait() // SOURCE is closed next
	if err != nil {
		return Ingested{}, errors.Join(err, v.abandon(a))
	}
	v.remember(k, seen)
	return result, nil
}

// take makes the tree of a release, as it is made on members: see CatchUpBeside. It gets no name
// before check has said that SOURCE did not change.
func (v *Volume) take(ctx context.Context, result Ingested, text []byte, a *assembly, wanted gc.Wanted, check func() error) (err error) {
	b := &beside{volume: v, id: result.ID, assembly: a}
	if a.who, err = v.owner(); err != nil {
		return err
	}
	if b.partial, err = v.startPartial(result.ID, a.who); err != nil {
		return err
	}
	defer func() { _ = b.partial.Close() }()
	if err := b.build(ctx, wanted, result.Previous); err != nil {
		if errors.Is(err, errOrigin) {
			return fmt.Errorf("%w: %w", ErrChanged, err)
		}
		return err
	}
	if err := check(); err != nil {
		return err
	}
	if err := a.settle(ctx, b.partial); err != nil {
		if errors.Is(err, errOrigin) {
			err = advice.Try(err, "publish again")
		}
		return err
	}
	if err := a.seal(b.partial); err != nil {
		return err
	}
	return v.publish(result.ID, a, text)
}

// withDigest finds a release with this digest whose tree was left alone; the current one if it has
// it. Publishing the same tree again takes no room, and what was edited in place is not shipped:
// the same SOURCE then becomes a release anew.
func (v *Volume) withDigest(ctx context.Context, digest, current string) string {
	ids, err := v.Releases()
	if err != nil {
		return ""
	}
	found := ""
	for _, id := range ids {
		if !strings.HasSuffix(id, "-"+digest[:12]) || found == current && found != "" {
			continue
		}
		if have, err := v.ManifestDigest(id); err == nil && have == digest && v.Untouched(ctx, id) == nil {
			found = id
		}
	}
	return found
}
