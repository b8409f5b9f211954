package release

import (
	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

// directory is a directory of a manifest, with what is right in it: indices, in the order of the
// names.
type directory struct {
	path  string
	entry int // -1: the root
	below []int
}

// directories come before those that are in them.
func directoriesOf(m manifest.Manifest) []directory {
	all := []directory{{entry: -1}}
	at := map[string]int{"": 0}
	before, in := "", 0 // the parent of the entry before is mostly that of the next, too
	for i := range m {
		if parent, _ := manifest.Split(m[i].Path); parent != before {
			before, in = parent, at[parent]
		}
		all[in].below = append(all[in].below, i)
		if m[i].Type == 'd' {
			at[m[i].Path] = len(all)
			all = append(all, directory{path: m[i].Path, entry: i})
		}
	}
	return all
}

// directory makes one directory right, not what is below its own directories.
func (a *assembly) directory(f directory) error {
	fd, err := a.to.directory(f.path)
	if err != nil {
		return err
	}
	if err := a.openUp(fd, f); err != nil {
		return pathError("make", f.path, err)
	}
	have, err := a.names.list(fd)
	if err != nil {
		return pathError("read directory", f.path, err)
	}
	base, held, err := a.inBase(f.path)
	if err != nil {
		return err
	}
	for _, i := range f.below {
		_, name := manifest.Split(a.manifest[i].Path)
		for len(have) > 0 && have[0].name < name {
			if err := removeAt(fd, have[0].name); err != nil {
				return pathError("remove", f.path+"/"+have[0].name, err)
			}
			have = have[1:]
		}
		for len(held) > 0 && held[0].name < name {
			held = held[1:]
		}
		p := place{index: i, entry: &a.manifest[i], dir: fd, name: name, base: base}
		if len(have) > 0 && have[0].name == name {
			p.is, have = &have[0], have[1:]
		}
		if len(held) > 0 && held[0].name == name {
			p.held = &held[0]
		}
		if err := a.put(p); err != nil {
			return pathError("make", p.entry.Path, err)
		}
	}
	for _, n := range have {
		if err := removeAt(fd, n.name); err != nil {
			return pathError("remove", f.path+"/"+n.name, err)
		}
	}
	return nil
}

// openUp lets the owner write to a directory that it may not write to as a part of a release.
func (a *assembly) openUp(fd int, f directory) error {
	if f.entry < 0 {
		return nil // startPartial made it
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	mode := st.Mode & manifest.MaxMode
	if mode&0o700 == 0o700 && mode == a.manifest[f.entry].Mode {
		return nil
	}
	a.pendingModes = append(a.pendingModes, f.entry)
	if mode&0o700 == 0o700 {
		return nil
	}
	return unix.Fchmod(fd, mode|0o700)
}

// inBase lists the same directory of the base; one that is not there is empty.
func (a *assembly) inBase(path string) (fd int, names []name, err error) {
	if a.base == nil {
		return -1, nil, nil
	}
	if fd, err = a.from.directory(path); err == nil {
		names, err = a.names.list(fd)
	}
	if otherShape(err) {
		return -1, nil, nil
	}
	return fd, names, err
}

// place is where an entry has to be.
type place struct {
	index int // in the manifest
	entry *manifest.Entry
	dir   int // its directory
	name  string
	is    *name // what is there; nil: nothing
	base  int   // the directory of the same path in the base
	held  *name // what is there; nil: nothing
}

// clear takes away what is there.
func (p *place) clear() error {
	if p.is == nil {
		return nil
	}
	p.is = nil
	return removeAt(p.dir, p.name)
}

func (a *assembly) put(p place) error {
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
	case a.steps[p.index].how == byLink:
		linked, err := a.link(&p)
		if linked || err != nil {
			return err
		}
	}
	if err := p.clear(); err != nil {
		return err
	}
	return a.copy(p)
}
