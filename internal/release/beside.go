package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"

	"ebs-release/internal/gc"
	"ebs-release/internal/manifest"
)

// besideDir has the changes and the manifest of a tree that is on its way. Its name is one that
// sweep removes.
const besideDir = stateDir + "/beside" + partialExt

// CatchUpBeside makes release s.To by a pack, as CatchUp does, and leaves s.From and what is served
// as they are: the new tree is made of links to it, and gets its name when it is whole and on disk.
// It needs no root. wanted says what may go when there is no room, or become the new tree, which
// only root does: see recycle. fs.ErrExist: the release is there. ErrBase: the one that it starts
// from is not what its manifest says. After an error nothing is left behind.
func (v *Volume) CatchUpBeside(ctx context.Context, s Step, pack PackReader, wanted gc.Wanted) error {
	err := manifest.CheckID(s.To)
	if s.From != "" || s.FromDigest != "" {
		err = errors.Join(err, manifest.CheckID(s.From))
	}
	if err != nil {
		return fmt.Errorf("catch up: %w", err)
	}
	b := &beside{volume: v, id: s.To}
	if b.unlock, err = v.lock(ctx); err == nil {
		if err = b.catchUp(ctx, s, pack, wanted); err != nil {
			err = whatIsFull(v.dir, err)
		}
		err = errors.Join(err, b.close())
	}
	if err != nil {
		return fmt.Errorf("catch up from release %q to %s, beside what is served: %w", s.From, s.To, err)
	}
	return nil
}

// beside is a tree on its way. Until close nobody else changes the volume.
type beside struct {
	volume   *Volume
	id       string
	unlock   func()
	partial  *os.File
	assembly *assembly
	done     bool
}

func (b *beside) catchUp(ctx context.Context, step Step, pack PackReader, wanted gc.Wanted) error {
	v := b.volume
	if err := v.isNew(step); err != nil {
		return err
	}
	base, size, err := v.openBase(step)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBase, err)
	}
	defer base.close()
	who, err := v.owner()
	if err != nil {
		return err
	}
	if b.partial, err = v.startPartial(b.id, who); err != nil {
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
	b.assembly = &assembly{
		entries: v.entriesBeside, base: base.dir, whole: base.whole, spans: base.spans, copies: base.dir, who: who, copyAs: fromBase,
	}
	if err := b.assemble(ctx, wanted, step.From); err != nil {
		return err
	}
	if err := b.receive(ctx, pack); err != nil {
		return err
	}
	if err := pack.End(); err != nil {
		return err
	}
	if err := b.assembly.settle(ctx, b.partial); err != nil {
		if step.From != "" && errors.Is(err, errOrigin) {
			err = fmt.Errorf("%w: %w", ErrBase, err)
		}
		return err
	}
	if err := b.assembly.seal(b.partial); err != nil {
		return err
	}
	return b.name()
}

// close lets others change the volume. A release that is not whole goes.
func (b *beside) close() error {
	var err error
	if b.partial != nil {
		_ = b.partial.Close()
		if !b.done {
			err = b.volume.abandon(b.assembly)
		}
	}
	b.unlock()
	return err
}

// assemble makes what the volume has.
func (b *beside) assemble(ctx context.Context, wanted gc.Wanted, base string) error {
	err := b.build(ctx, wanted, base)
	if base != "" && (errors.Is(err, errOrigin) || errors.Is(err, fs.ErrPermission)) { // its owner may not read all of it
		err = fmt.Errorf("%w: %w", ErrBase, err)
	}
	return err
}

// build makes the tree, of an old one if there is one to spare.
func (b *beside) build(ctx context.Context, wanted gc.Wanted, base string) (err error) {
	recycled := ""
	if wanted.Keep > 0 {
		if recycled, err = b.volume.recycle(ctx, b.id, b.assembly, wanted, base); err != nil {
			return err
		}
	}
	err = b.assembly.build(ctx, b.partial)
	if recycled != "" && errors.Is(err, fs.ErrPermission) { // what belongs to another user cannot be made into anything
		if err = b.startOver(recycled); err == nil {
			err = b.assembly.build(ctx, b.partial)
		}
	}
	return err
}

// startOver makes the partial tree an empty one. What was recycled goes back under the name that it
// had when it stopped to be a release.
func (b *beside) startOver(recycled string) error {
	_ = b.partial.Close()
	if err := b.volume.root.Rename(releasesDir+"/"+b.id+partialExt, releasesDir+"/"+recycled+partialExt); err != nil {
		return err
	}
	var err error
	b.partial, err = b.volume.newPartial(b.id, b.assembly.who)
	b.assembly.pendingModes, b.assembly.again = nil, nil
	return err
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

// receive takes what the base does not have.
func (b *beside) receive(ctx context.Context, pack PackReader) error {
	directories := &dirs{root: b.partial}
	defer directories.close()
	h := newHasher()
	return b.volume.eachChange(ctx, besideDir, func(_ int, c *manifest.Change) error {
		if !c.HasContent() {
			return nil
		}
		from, err := pack.Content(&c.Entry)
		if err != nil {
			return err
		}
		return b.receiveFile(readerFunc(func(into []byte) (int, error) { // a large file must not outlast ctx
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			return from.Read(into)
		}), h, directories, &c.Entry)
	})
}

// receiveFile writes a file that was not there, and compares it with its sha256 meanwhile.
func (b *beside) receiveFile(from io.Reader, h *hasher, directories *dirs, e *manifest.Entry) (err error) {
	dir, name, err := directories.parent(e.Path)
	if err != nil {
		return err
	}
	to, err := create(dir, name)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := to.Close(); err == nil {
			err = closeErr
		}
	}()
	sum, size, err := h.sum(io.LimitReader(from, e.Size), to)
	if err != nil {
		return err
	}
	if size != e.Size || sum != e.SHA256 {
		return errors.New("its content has another sha256")
	}
	return b.assembly.complete(to, e, b.assembly.began)
}

// name is publish, with the manifest that was made on the volume.
func (b *beside) name() error {
	v, text, made := b.volume, stateDir+"/"+b.id+manifestExt, besideDir+mergedFile
	if err := v.removeTree(text); err != nil { // of a tree that a crash kept from its name
		return err
	}
	if err := v.stampMerged(made, b.assembly.who, b.assembly.began); err != nil {
		return err
	}
	if err := v.root.Rename(made, text); err != nil {
		return err
	}
	if err := v.giveName(b.id, b.assembly); err != nil {
		if _, none := v.root.Lstat(releasesDir + "/" + b.id); errors.Is(none, fs.ErrNotExist) {
			err = errors.Join(err, v.root.Remove(text))
		}
		return err
	}
	b.done = true
	_ = v.removeTree(besideDir) // or the next sweep does
	return nil
}
