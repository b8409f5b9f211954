package release

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

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
		return has, advice.Try(fmt.Errorf("it, or its directory, cannot be changed: %w", unix.EPERM), "lsattr, chattr -ia")
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink > 1 && !p.spans.has(unix.Timespec{Sec: st.Ctime.Sec, Nsec: int64(st.Ctime.Nsec)}) {
		p.hides = true
	}
	return has, err
}

// grow adds what a directory may need for one more name. The first name can turn ext4's list into
// an index, and deepen that one: three blocks; each can split a block that is full. A directory
// that is new has one block, and splits leave blocks that are half full.
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
		if err := unix.Mkdirat(p.into, name, 0o700); err != nil {
			return err
		}
		return p.who.own(p.into, name)
	case c.Entry.Type == 'l':
		if err := unix.Symlinkat(c.Entry.Target, p.into, name); err != nil {
			return err
		}
		return p.who.own(p.into, name)
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
