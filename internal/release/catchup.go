package release

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math"
	"os"
	"strconv"
	"strings"

	"ebs-release/internal/manifest"
	"ebs-release/internal/words"

	"golang.org/x/sys/unix"
)

// Catching up in place: the tree that a volume holds becomes the next release, by a pack. Only what
// changed is touched, as each first read of a volume that comes from a snapshot is slow.
//
//  1. Everything that can fail for want of something comes first, beside the tree, which stays as
//     it is: the new manifest is made and its digest compared, contents are written and compared
//     with their sha256, files that only move get a further name. All of it is brought to disk.
//  2. A journal says that this is so. From here on there is one way, which needs neither network nor
//     room: the tree loses its name, each thing that was prepared is renamed to its place, what is
//     to go goes, all of it is brought to disk, and the tree gets its new name.
//
// Each step of the second part may be done twice. Whoever finds the journal does it again
// (FinishCatchUp), and removes it. Until then nobody else changes this volume (ErrHalfway). Before
// the journal nothing has happened.
//
// The caller sees to it that nobody serves this volume, or keeps a file of it open.
const (
	catchUpDir  = stateDir + "/catch-up" // 0, 1, …: what change 0, 1, … puts into the tree
	changesPath = catchUpDir + "/changes"
	mergedPath  = catchUpDir + "/manifest"
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
	From, FromDigest string // on the volume
	To, ToDigest     string
}

// journal is what the second part needs to know.
type journal struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// CatchUp makes release s.From into s.To, in place, and removes the first. `current` and the fence
// are the caller's: see Activate. An error before the journal leaves the volume as it was; after it,
// FinishCatchUp is the only way on.
func (v *Volume) CatchUp(ctx context.Context, s Step, pack PackReader) error {
	if err := errors.Join(manifest.CheckID(s.From), manifest.CheckID(s.To)); err != nil {
		return fmt.Errorf("catch up: %w", err)
	}
	err := v.hold(ctx, func() error {
		if _, err := v.finish(ctx); err != nil {
			return err
		}
		if _, err := v.root.Lstat(releasesDir + "/" + s.To); err == nil {
			if err := v.checkRelease(s.To, s.ToDigest); err != nil {
				return err
			}
			return fmt.Errorf("%w: it can be activated as it is", fs.ErrExist)
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

// prepare is the first part. hides: see assembly.
func (v *Volume) prepare(ctx context.Context, s Step, pack PackReader, began unix.Timespec) (hides bool, err error) {
	if err := v.checkRelease(s.From, s.FromDigest); err != nil {
		return false, err
	}
	// What would stand in the way of a rename later.
	if _, err := v.sweep(); err != nil {
		return false, err
	}
	if err := v.removeTree(stateDir + "/" + s.To + manifestExt); err != nil {
		return false, err
	}
	if err := v.root.Mkdir(catchUpDir, 0o700); err != nil {
		return false, err
	}
	need, err := v.merge(ctx, s, pack)
	if err != nil {
		return false, err
	}
	free, err := v.free()
	if err != nil {
		return false, err
	}
	if need > free {
		return false, fmt.Errorf("%s has %s free, the release needs %s more: %w. Try: a larger volume, or keep fewer releases",
			v.path, words.Bytes(free), words.Bytes(need), unix.ENOSPC)
	}
	if hides, err = v.bring(ctx, s, pack, began); err != nil {
		return false, err
	}
	if err := errors.Join(pack.End(), v.syncAll()); err != nil {
		return false, err
	}
	return hides, v.writeJournal(journal{From: s.From, To: s.To})
}

// writeJournal gives the journal its name when it is whole. finish brings the name to disk.
func (v *Volume) writeJournal(j journal) error {
	const unnamed = catchUpDir + "/journal"
	if err := v.writeNew(unnamed, func(w io.Writer) error { return json.NewEncoder(w).Encode(j) }); err != nil {
		return err
	}
	return v.root.Rename(unnamed, journalPath)
}

// merge makes the new manifest, and writes the changes down. need is how many bytes there must be
// room for.
func (v *Volume) merge(ctx context.Context, s Step, pack PackReader) (need int64, err error) {
	base, err := v.openManifest(s.From)
	if err != nil {
		return 0, err
	}
	defer func() { _ = base.Close() }()
	sum := sha256.New()
	err = v.writeNew(changesPath, func(changes io.Writer) error {
		var line []byte
		written := int64(0)
		told := func(yield func(manifest.Change, error) bool) {
			for c, err := range pack.Changes() {
				if err == nil {
					line = c.AppendLine(line[:0])
					written += int64(len(line))
					_, err = changes.Write(line)
				}
				if err == nil && (c.How == manifest.Copy || c.HasContent()) {
					if c.Entry.Size > math.MaxInt64-need {
						err = fmt.Errorf("%s: no volume has %d bytes", manifest.Quote(c.Entry.Path), c.Entry.Size)
					}
					need += c.Entry.Size
				}
				if written > maxChanges {
					err = fmt.Errorf("the pack has more than %s of changes", words.Bytes(maxChanges))
				}
				if !yield(c, err) || err != nil {
					return
				}
			}
		}
		return v.writeNew(mergedPath, func(merged io.Writer) error {
			return manifest.Merge(ctx, io.MultiWriter(&bounded{merged, manifest.MaxSize}, sum), base, told)
		})
	})
	if err == nil && hexSum(sum) != s.ToDigest {
		err = fmt.Errorf("the pack gives digest %s, want %s", hexSum(sum), s.ToDigest)
	}
	return need, err
}

// bring makes what goes into the tree, beside it.
func (v *Volume) bring(ctx context.Context, s Step, pack PackReader, began unix.Timespec) (hides bool, err error) {
	tree, err := v.openDirectory(releasesDir + "/" + s.From)
	if err != nil {
		return false, err
	}
	defer func() { _ = tree.Close() }()
	into, err := v.openDirectory(catchUpDir)
	if err != nil {
		return false, err
	}
	defer func() { _ = into.Close() }()
	who, err := v.owner()
	if err != nil {
		return false, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(tree.Fd()), &st); err != nil {
		return false, err
	}
	p := provider{
		block: int64(st.Bsize), room: minBallast, ended: ctx.Err,
		who: who, began: began, into: int(into.Fd()), hash: newHasher(), pack: pack, spans: v.spans(),
		base: &dirs{root: tree}, source: &dirs{root: tree},
	}
	defer p.base.close()
	defer p.source.close()
	if err := v.eachChange(ctx, p.provide); err != nil {
		return false, err
	}
	return p.hides, errors.Join(v.setAside(ballastPath, p.room), v.stampMerged(who, began))
}

// stampMerged gives the new manifest what every manifest has: see publish.
func (v *Volume) stampMerged(who owner, began unix.Timespec) error {
	file, err := v.openPlain(mergedPath, manifest.MaxSize)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	if who != asIs {
		if err := file.Chown(who.uid, who.gid); err != nil {
			return err
		}
	}
	if err := file.Chmod(0o644); err != nil {
		return err
	}
	tv := unix.NsecToTimeval(began.Nano())
	return unix.Futimes(int(file.Fd()), []unix.Timeval{tv, tv})
}

// provider makes files and symlinks in the catch-up directory, under the number of their change.
type provider struct {
	who    owner
	ended  func() error // of the context
	began  unix.Timespec
	into   int
	base   *dirs // the tree as it is
	source *dirs // the same, for what comes from another path
	hash   *hasher
	pack   PackReader
	spans  spans
	hides  bool      // what goes has other names, and somebody touched it: see assembly
	above  []changed // the changes whose paths the last path begins with
	block  int64     // of the file system, in bytes
	room   int64     // what directories may grow by, in bytes: see grow
	grown  string    // the directory that got a name last
}

// changed is a path, and whether the next release has a directory there.
type changed struct {
	path      string
	directory bool
}

// look sees to it that a change can be made later, when there is no way back.
func (p *provider) look(c *manifest.Change) error {
	path, stays := c.Entry.Path, c.How != manifest.Gone
	for len(p.above) > 0 && !strings.HasPrefix(path, p.above[len(p.above)-1].path) {
		p.above = p.above[:len(p.above)-1]
	}
	above, _ := manifest.Split(path)
	made := ""
	for _, a := range p.above {
		if !stays || !strings.HasPrefix(path, a.path+"/") {
			continue
		}
		if !a.directory {
			return fmt.Errorf("the pack makes %s no directory", manifest.Quote(a.path))
		}
		made = a.path
	}
	p.above = append(p.above, changed{path, stays && c.Entry.Type == 'd'})
	dir, name, err := p.base.parent(path)
	switch {
	case otherShape(err) && !stays:
		return nil // with its directory
	case otherShape(err) && made == above && above != "":
		p.grow(above, name, true)
		return nil
	case otherShape(err):
		return fmt.Errorf("%w: %w", errOrigin, err)
	case err != nil:
		return err
	}
	has, err := p.leave(dir, name)
	if stays && !has {
		p.grow(above, name, false)
	}
	return err
}

// leave looks at what the tree loses, if it has it.
func (p *provider) leave(dir int, name string) (has bool, err error) {
	var st, in unix.Statx_t
	if err := unix.Statx(dir, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &in); err != nil {
		return false, err
	}
	err = unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st)
	if errors.Is(err, unix.ENOENT) {
		err = nil
	} else {
		has = err == nil
	}
	if (st.Attributes|in.Attributes)&(unix.STATX_ATTR_IMMUTABLE|unix.STATX_ATTR_APPEND) != 0 {
		return has, fmt.Errorf("it, or its directory, cannot be changed: %w. Try: lsattr, chattr -ia", unix.EPERM)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink > 1 && !p.spans.has(unix.Timespec{Sec: st.Ctime.Sec, Nsec: int64(st.Ctime.Nsec)}) {
		p.hides = true
	}
	return has, err
}

// grow adds what a directory may need for one more name. The first name can turn ext4's list into
// an index, and deepen that one: three blocks; each can split a block that is full. A directory that
// is new has one block, and splits leave blocks that are half full.
func (p *provider) grow(directory, name string, fresh bool) {
	switch {
	case fresh:
		p.room += 6 * int64(len(name)+16)
		return
	case p.grown != directory || p.room == minBallast:
		p.room += 3 * p.block
	}
	p.room += p.block
	p.grown = directory
}

func (p *provider) provide(number int, c *manifest.Change) error {
	if err := p.look(c); err != nil {
		return err
	}
	name := strconv.Itoa(number)
	switch {
	case c.How == manifest.Gone:
		return nil
	case c.Entry.Type == 'd':
		err := unix.Mkdirat(p.into, name, 0o700)
		if err == nil && p.who != asIs {
			err = unix.Fchownat(p.into, name, p.who.uid, p.who.gid, unix.AT_SYMLINK_NOFOLLOW)
		}
		return err
	case c.Entry.Type == 'l':
		err := unix.Symlinkat(c.Entry.Target, p.into, name)
		if err == nil && p.who != asIs {
			err = unix.Fchownat(p.into, name, p.who.uid, p.who.gid, unix.AT_SYMLINK_NOFOLLOW)
		}
		return err
	case c.How == manifest.New:
		from, err := p.pack.Content(&c.Entry)
		if err != nil {
			return err
		}
		return p.write(name, c, from)
	}
	from, err := p.source.openFile(c.From)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	if info, err := from.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() != c.Entry.Size {
		return errors.Join(err, fmt.Errorf("%s of the release here %w", manifest.Quote(c.From), errOrigin))
	}
	if c.How == manifest.Link {
		linked, err := p.link(name, c, from)
		if linked || err != nil {
			return err
		}
	}
	return p.write(name, c, from)
}

// write makes a file, and compares it with its sha256.
func (p *provider) write(name string, c *manifest.Change, from io.Reader) error {
	to, err := create(p.into, name)
	if err != nil {
		return err
	}
	sum, size, err := p.hash.sum(p.upTo(from, c.Entry.Size), to)
	switch {
	case err != nil:
	case sum == c.Entry.SHA256 && size == c.Entry.Size:
		err = finishFile(to, &c.Entry, p.who, p.began, p.began)
	case c.From != "":
		err = fmt.Errorf("%s of the release here %w", manifest.Quote(c.From), errOrigin)
	default:
		err = errors.New("its content has another sha256")
	}
	return errors.Join(err, to.Close())
}

// upTo reads no more than a byte more than size, as a file of the tree may grow meanwhile, and not
// after the end of the context.
func (p *provider) upTo(from io.Reader, size int64) io.Reader {
	return io.LimitReader(readerFunc(func(into []byte) (int, error) {
		if err := p.ended(); err != nil {
			return 0, err
		}
		return from.Read(into)
	}), size+1)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(into []byte) (int, error) { return f(into) }

// link gives the base's file a further name, if it is what the change says that it is.
func (p *provider) link(name string, c *manifest.Change, from *os.File) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(from.Fd()), &st); err != nil {
		return false, err
	}
	if !matches(&c.Entry, &st) || !untouched(&c.Entry, &st, p.began) || hasAttributes(from) {
		return false, nil
	}
	sum, _, err := p.hash.sum(p.upTo(from, c.Entry.Size), nil)
	if err != nil {
		return false, err
	}
	if sum != c.Entry.SHA256 {
		return false, fmt.Errorf("%s of the release here %w", manifest.Quote(c.From), errOrigin)
	}
	err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", from.Fd()), p.into, name, unix.AT_SYMLINK_FOLLOW)
	if cannotLink(err) {
		_, err = from.Seek(0, io.SeekStart)
		return false, err
	}
	return err == nil, err
}

// finish is the second part: everything in it may have been done before. id is what came out; "":
// there was nothing to do.
func (v *Volume) finish(ctx context.Context) (id string, err error) {
	j, err := v.journal()
	if err != nil {
		return "", err
	}
	if j.To == "" { // what a first part left that was cut off, if any
		return "", v.removeTree(catchUpDir)
	}
	if err := v.syncDir(stateDir); err != nil { // the journal's name
		return "", err
	}
	if err := v.root.Remove(ballastPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	from, changing, to := releasesDir+"/"+j.From, releasesDir+"/"+j.To+changingExt, releasesDir+"/"+j.To
	if _, err := v.root.Lstat(to); errors.Is(err, fs.ErrNotExist) {
		if err := v.root.Rename(from, changing); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if err := v.syncDir(releasesDir); err != nil {
			return "", err
		}
		if err := v.change(ctx, changing); err != nil {
			return "", err
		}
		text := stateDir + "/" + j.To + manifestExt
		err := v.root.Rename(mergedPath, text)
		if errors.Is(err, fs.ErrNotExist) { // it was renamed before
			_, err = v.root.Lstat(text)
		}
		if err != nil {
			return "", err
		}
		if err := v.syncAll(); err != nil {
			return "", err
		}
		if err := v.root.Rename(changing, to); err != nil {
			return "", err
		}
	} else if err != nil {
		return "", err
	}
	if err := v.root.Remove(stateDir + "/" + j.From + manifestExt); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := errors.Join(v.syncDir(releasesDir), v.syncDir(stateDir)); err != nil {
		return "", err
	}
	if err := v.root.Remove(journalPath); err != nil { // first: without it the rest is only litter
		return "", err
	}
	return j.To, v.removeTree(catchUpDir)
}

// journal is zero when there is none.
func (v *Volume) journal() (j journal, err error) {
	file, err := v.openPlain(journalPath, maxJournal)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return j, err
	}
	defer func() { _ = file.Close() }()
	err = json.NewDecoder(io.LimitReader(file, maxJournal)).Decode(&j)
	if err = errors.Join(err, manifest.CheckID(j.From), manifest.CheckID(j.To)); err == nil && j.From == j.To {
		err = errors.New("it leads nowhere")
	}
	if err != nil {
		return journal{}, fmt.Errorf("%s/%s: %w", v.path, journalPath, err)
	}
	return j, nil
}

// change puts what was prepared into the tree, and takes away what is to go.
func (v *Volume) change(ctx context.Context, name string) error {
	tree, err := v.openDirectory(name)
	if err != nil {
		return err
	}
	defer func() { _ = tree.Close() }()
	prepared, err := v.openDirectory(catchUpDir)
	if err != nil {
		return err
	}
	defer func() { _ = prepared.Close() }()
	p := placer{from: int(prepared.Fd()), to: &dirs{root: tree}, hash: newHasher()}
	defer func() { p.to.close() }()
	if err := v.eachChange(ctx, p.place); err != nil {
		return err
	}
	p.to.close() // it may hold directories that are gone
	p.to = &dirs{root: tree}
	return v.eachChange(ctx, p.mode)
}

// placer works on the tree. Only root can: a directory may not be its owner's to write to.
type placer struct {
	from int // the catch-up directory
	to   *dirs
	hash *hasher
}

func (p *placer) place(number int, c *manifest.Change) error {
	dir, name, err := p.to.parent(c.Entry.Path)
	if c.How == manifest.Gone && otherShape(err) {
		return nil // with its directory
	}
	if err != nil {
		return err
	}
	if c.How == manifest.Gone {
		return removeAt(dir, name)
	}
	move := func() error { return unix.Renameat(p.from, strconv.Itoa(number), dir, name) }
	err = move()
	switch {
	case errors.Is(err, unix.ENOENT):
		return p.placed(dir, name, &c.Entry)
	case c.Entry.Type == 'd' && (errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST)):
		return nil // there is one, which gets another mode
	case errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOTDIR): // something else was there
		return errors.Join(removeAt(dir, name), move())
	}
	return err
}

// placed says whether what is not among the prepared things was placed before, and not lost. Its
// size and time may be those of what was there.
func (p *placer) placed(dir int, name string, e *manifest.Entry) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err != nil:
	case e.Type == 'd' && st.Mode&unix.S_IFMT == unix.S_IFDIR: // of any mode: it gets its own last
		return nil
	default:
		err = compare(e, dir, name, &st)
	}
	if err == nil && e.Type == 'f' {
		err = p.holds(dir, name, e)
	}
	if err != nil {
		return fmt.Errorf("what was prepared is lost, and was not placed: %w", err)
	}
	return nil
}

// holds says whether a file has the content that its entry says.
func (p *placer) holds(dir int, name string, e *manifest.Entry) error {
	file, err := openFileAt(dir, name, e.Path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	sum, size, err := p.hash.sum(io.LimitReader(file, e.Size+1), nil)
	if err == nil && (sum != e.SHA256 || size != e.Size) {
		err = fmt.Errorf("%s: its content has another sha256", manifest.Quote(e.Path))
	}
	return err
}

// mode gives directories theirs, when nothing more is put into them.
func (p *placer) mode(_ int, c *manifest.Change) error {
	if c.How == manifest.Gone || c.Entry.Type != 'd' {
		return nil
	}
	fd, err := p.to.directory(c.Entry.Path)
	if err != nil {
		return err
	}
	return unix.Fchmod(fd, c.Entry.Mode)
}

// eachChange reads the changes that were written down.
func (v *Volume) eachChange(ctx context.Context, do func(number int, c *manifest.Change) error) error {
	file, err := v.openPlain(changesPath, maxChanges)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	return manifest.EachLine(file, func(number int, line []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		c, err := manifest.ParseChange(string(line))
		if err == nil {
			err = do(number-1, &c)
		}
		if err != nil {
			return pathError("make", c.Entry.Path, err)
		}
		return nil
	})
}

// bounded fails when more is written than is left.
type bounded struct {
	to   io.Writer
	left int64
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, errors.New("the pack makes a manifest that is too large")
	}
	return b.to.Write(p)
}

// setAside takes room that nobody else can use until the file is gone.
func (v *Volume) setAside(name string, bytes int64) error {
	file, err := v.openRegular(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600, 0)
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(file.Fd()), 0, 0, bytes)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		err = fmt.Errorf("set %s aside: %w", words.Bytes(bytes), err)
	} else {
		err = nil
	}
	return errors.Join(err, file.Close())
}

// writeNew makes a file, and brings it to disk.
func (v *Volume) writeNew(name string, write func(io.Writer) error) error {
	file, err := v.openRegular(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600, 0)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(file, 64<<10)
	if err = write(w); err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}
