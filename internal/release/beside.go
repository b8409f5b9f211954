package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"

	"ebs-release/internal/gc"
	"ebs-release/internal/manifest"
)

// besideDir has the changes and the manifest of a tree that is on its way. Its name is one that
// sweep removes.
const besideDir = stateDir + "/beside" + partialExt

// CatchUpBeside makes release s.To by a pack, as CatchUp does, and leaves s.From and what is served
// as they are: the new tree is made of links to it, and gets its name when it is whole and on disk.
// It needs no root. wanted says what may go when there is no room, or become the new tree: see
// Stage. fs.ErrExist: the release is there. After an error nothing is left behind.
func (v *Volume) CatchUpBeside(ctx context.Context, s Step, pack PackReader, wanted gc.Wanted) error {
	err := manifest.CheckID(s.To)
	if s.From != "" || s.FromDigest != "" {
		err = errors.Join(err, manifest.CheckID(s.From))
	}
	if err != nil {
		return fmt.Errorf("catch up: %w", err)
	}
	staging := &Staging{volume: v, id: s.To}
	if staging.unlock, err = v.lock(ctx); err == nil {
		if err = staging.beside(ctx, s, pack, wanted); err != nil {
			err = whatIsFull(v.dir, err)
		}
		err = errors.Join(err, staging.Close())
	}
	if err != nil {
		return fmt.Errorf("catch up from release %q to %s, beside what is served: %w", s.From, s.To, err)
	}
	return nil
}

func (s *Staging) beside(ctx context.Context, step Step, pack PackReader, wanted gc.Wanted) error {
	v := s.volume
	if err := v.isNew(step); err != nil {
		return err
	}
	base, size, err := v.openBase(step)
	if err != nil {
		return err
	}
	defer base.close()
	who, err := v.owner()
	if err != nil {
		return err
	}
	if s.partial, err = v.startPartial(s.id, who); err != nil {
		return err
	}
	// The new manifest comes to the volume first, and is about as large as that of the base.
	if err := v.makeRoom(ctx, size, wanted, step.From); err != nil {
		return err
	}
	if err := v.startBeside(who); err != nil {
		return err
	}
	need, err := v.merge(ctx, besideDir, step, pack)
	if err == nil {
		err = v.makeRoom(ctx, need, wanted, step.From)
	}
	if err != nil {
		return err
	}
	s.assembly = &assembly{
		entries: v.entriesBeside, base: base.dir, whole: base.whole, spans: base.spans, copies: base.dir, who: who, copyAs: fromBase,
	}
	if _, err := s.assemble(ctx, wanted, step.From); err != nil {
		return err
	}
	if err := s.receivePack(ctx, pack); err != nil {
		return err
	}
	if err := errors.Join(pack.End(), s.assembly.seal(s.partial)); err != nil {
		return err
	}
	return s.nameBeside()
}

// openBase opens what the tree is made from, if anything, and says how large its manifest is, in
// bytes.
func (v *Volume) openBase(s Step) (*Tree, int64, error) {
	if s.From == "" {
		return &Tree{}, 0, nil
	}
	if err := v.checkRelease(s.From, s.FromDigest); err != nil {
		return nil, 0, err
	}
	file, err := v.openManifest(s.From)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, 0, err
	}
	base, err := v.openUnread(s.From, file)
	return base, info.Size(), err
}

func (v *Volume) startBeside(who owner) error {
	if err := v.root.Mkdir(besideDir, 0o700); err != nil {
		return err
	}
	return who.own(int(v.dir.Fd()), besideDir) // who has to be able to remove it
}

// entriesBeside goes through the new manifest and the changes side by side: what did not change is
// the base's own.
func (v *Volume) entriesBeside(ctx context.Context, do func(planned) error) error {
	file, err := v.openPlain(besideDir+mergedFile, manifest.MaxSize)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	next, stop := iter.Pull2(v.changesBeside(ctx))
	defer stop()
	change, changeErr, more := next()
	return manifest.EachLine(file, func(number int, line []byte) error {
		e, err := manifest.ParseEntry(string(line))
		if err == nil {
			err = e.Check()
		}
		if err != nil {
			return fmt.Errorf("line %d of the manifest: %w", number, err)
		}
		for more && changeErr == nil && change.Entry.Path < e.Path { // it is gone
			change, changeErr, more = next()
		}
		if changeErr != nil {
			return changeErr
		}
		p := planned{index: number - 1, entry: &e, step: step{how: byLink, from: e.Path}}
		if more && change.Entry.Path == e.Path {
			p.step = stepOf(&change)
		}
		return do(p)
	})
}

func stepOf(c *manifest.Change) step {
	switch c.How {
	case manifest.Link:
		return step{how: byLink, from: c.From, doubted: true} // the digest does not say where it is from
	case manifest.Copy:
		return step{how: byCopy, from: c.From}
	}
	return step{}
}

var errEnough = errors.New("enough")

// changesBeside is eachChange for who takes them one by one.
func (v *Volume) changesBeside(ctx context.Context) iter.Seq2[manifest.Change, error] {
	return func(yield func(manifest.Change, error) bool) {
		err := v.eachChange(ctx, besideDir, func(_ int, c *manifest.Change) error {
			if !yield(*c, nil) {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(manifest.Change{}, err)
		}
	}
}

// receivePack takes what the base does not have.
func (s *Staging) receivePack(ctx context.Context, pack PackReader) error {
	directories := &dirs{root: s.partial}
	defer directories.close()
	h := newHasher()
	return s.volume.eachChange(ctx, besideDir, func(_ int, c *manifest.Change) error {
		if !c.HasContent() {
			return nil
		}
		from, err := pack.Content(&c.Entry)
		if err != nil {
			return err
		}
		return s.receiveFile(readerFunc(func(into []byte) (int, error) { // a large file must not outlast ctx
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			return from.Read(into)
		}), h, directories, &c.Entry)
	})
}

// nameBeside is publish, with the manifest that was made on the volume.
func (s *Staging) nameBeside() error {
	v, text, made := s.volume, stateDir+"/"+s.id+manifestExt, besideDir+mergedFile
	if err := v.removeTree(text); err != nil { // of a tree that a crash kept from its name
		return err
	}
	if err := v.stampMerged(made, s.assembly.who, s.assembly.began); err != nil {
		return err
	}
	if err := v.root.Rename(made, text); err != nil {
		return err
	}
	if err := v.giveName(s.id, s.assembly); err != nil {
		if _, none := v.root.Lstat(releasesDir + "/" + s.id); errors.Is(none, fs.ErrNotExist) {
			err = errors.Join(err, v.root.Remove(text))
		}
		return err
	}
	s.done = true
	_ = v.removeTree(besideDir) // or the next sweep does
	return nil
}
