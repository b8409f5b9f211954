package release

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

// level is a directory of the tree that is being made right. It keeps no descriptor: see dirs.
type level struct {
	path   string
	have   []name // what is in it, in the order of the names, from the last entry on
	inBase bool   // the base has a directory at this path
}

// over says that nothing of a directory comes any more once a path has come: "a-b" comes between
// "a" and what is in it.
func (l *level) over(path string) bool {
	rest, below := strings.CutPrefix(path, l.path)
	return l.path != "" && (!below || rest[0] > '/')
}

// descent goes through the manifest, and keeps in mind only the directories on the way.
type descent struct {
	*assembly

	open []*level // each was listed before the next
	last string   // path
}

// all goes through the manifest.
func (a *assembly) all(ctx context.Context) error {
	d := descent{assembly: a}
	if err := d.enter("", false); err != nil {
		return err
	}
	err := a.entries(ctx, func(w planned) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return d.step(w)
	})
	for err == nil && len(d.open) > 0 {
		err = d.leave()
	}
	return err
}

// step makes the next entry right. What comes from a pack was not parsed as a whole: that it is
// sorted, and each path below a directory, is seen here.
func (d *descent) step(w planned) error {
	path := w.entry.Path
	if path <= d.last {
		return fmt.Errorf("%s comes after %s in the manifest", manifest.Quote(path), manifest.Quote(d.last))
	}
	d.last = path
	for d.open[len(d.open)-1].over(path) {
		if err := d.leave(); err != nil {
			return err
		}
	}
	parent, _ := manifest.Split(path)
	for n := len(d.open) - 1; n >= 0; n-- {
		if d.open[n].path != parent {
			continue
		}
		isNew, err := d.entry(d.open[n], w)
		if err == nil && w.entry.Type == 'd' {
			if err = d.enter(path, isNew); err == nil {
				err = d.openUp(w.entry)
			}
		}
		return err
	}
	return pathError("make", path, errors.New("the manifest has no directory for it"))
}

// enter looks at what is in a directory already, and whether the base has it.
func (d *descent) enter(path string, isNew bool) error {
	l := &level{path: path}
	fd, err := d.to.directory(path)
	if err == nil && !isNew {
		l.have, err = d.names.list(fd)
	}
	if err != nil {
		return pathError("read directory", path, err)
	}
	if d.base != nil {
		_, err = d.from.directory(path)
		if l.inBase = err == nil; !l.inBase && !otherShape(err) {
			return err
		}
	}
	d.open = append(d.open, l)
	return nil
}

// leave takes away what is left in the last directory, and does not belong there.
func (d *descent) leave() error {
	l := d.open[len(d.open)-1]
	d.open = d.open[:len(d.open)-1]
	if len(l.have) == 0 {
		return nil
	}
	fd, err := d.to.directory(l.path)
	if err != nil {
		return err
	}
	for _, n := range l.have {
		if err := removeAt(fd, n.name); err != nil {
			return pathError("remove", l.path+"/"+n.name, err)
		}
	}
	return nil
}

// entry makes one entry right, not what is below it. isNew: nothing of its kind was there.
func (a *assembly) entry(l *level, w planned) (isNew bool, err error) {
	p := place{planned: w, base: -1}
	if p.dir, p.name, err = a.to.parent(w.entry.Path); err != nil {
		return false, err
	}
	if l.inBase {
		if p.base, err = a.from.directory(l.path); err != nil {
			return false, err
		}
	}
	for len(l.have) > 0 && l.have[0].name < p.name {
		if err := removeAt(p.dir, l.have[0].name); err != nil {
			return false, pathError("remove", l.path+"/"+l.have[0].name, err)
		}
		l.have = l.have[1:]
	}
	if len(l.have) > 0 && l.have[0].name == p.name {
		p.is, l.have = &l.have[0], l.have[1:]
	}
	if err := a.put(&p); err != nil {
		return false, pathError("make", w.entry.Path, err)
	}
	return p.is == nil, nil
}

// openUp lets the owner write to a directory that it may not write to as a part of a release.
func (a *assembly) openUp(e *manifest.Entry) error {
	fd, err := a.to.directory(e.Path)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return pathError("make", e.Path, err)
	}
	mode := st.Mode & manifest.MaxMode
	if mode&0o700 == 0o700 && mode == e.Mode {
		return nil
	}
	a.pendingModes = append(a.pendingModes, pendingMode{e.Path, e.Mode})
	if mode&0o700 == 0o700 {
		return nil
	}
	if err := unix.Fchmod(fd, mode|0o700); err != nil {
		return pathError("make", e.Path, err)
	}
	return nil
}

// place is where an entry has to be.
type place struct {
	planned

	dir  int // its directory
	name string
	is   *name // what is there; nil: nothing
	base int   // the directory of the same path in the base; -1: it has none
}

// clear takes away what is there.
func (p *place) clear() error {
	if p.is == nil {
		return nil
	}
	p.is = nil
	return removeAt(p.dir, p.name)
}

func (a *assembly) put(p *place) error {
	switch {
	case p.entry.Type == 'd':
		if p.is != nil && p.is.kind == unix.DT_DIR {
			return nil
		}
		if err := p.clear(); err != nil {
			return err
		}
		if err := unix.Mkdirat(p.dir, p.name, 0o700); err != nil {
			return err
		}
		return a.who.own(p.dir, p.name)
	case p.entry.Type == 'l':
		if p.is != nil && p.is.kind == unix.DT_LNK && targetOf(p.dir, p.name) == p.entry.Target {
			return nil
		}
		if err := p.clear(); err != nil {
			return err
		}
		if err := unix.Symlinkat(p.entry.Target, p.dir, p.name); err != nil {
			return err
		}
		return a.who.own(p.dir, p.name)
	case p.step.how == byLink:
		linked, err := a.link(p)
		if linked || err != nil {
			return err
		}
	}
	if err := p.clear(); err != nil {
		return err
	}
	return a.copy(*p)
}
