package release

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"

	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

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
	if err := v.eachChange(ctx, catchUpDir, p.place); err != nil {
		return err
	}
	p.to.close() // it may hold directories that are gone
	p.to = &dirs{root: tree}
	return v.eachChange(ctx, catchUpDir, p.mode)
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
