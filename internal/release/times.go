package release

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"ebs-release/internal/manifest"
)

// Why a manifest has times. Programs cache by the time of a file: Python's bytecode names that of
// its source, a web server makes ETags of it. So a file has one time, on every member, pushed or
// booted.
//
// Which one: a file that did not change keeps that of the release before. A fresh checkout has new
// times throughout, and a file with a new time would be a new inode, a copy of the whole tree. But
// where SOURCE has bytecode that is valid for the new time, the file gets it: else that bytecode
// would be stale at every start on every member (ostree #1469).

// ScanOver reads a tree into the manifest that it would get as the release after base. What is
// known of it is read only if all is to be. It does not change the volume.
func (v *Volume) ScanOver(ctx context.Context, dir string, base manifest.Manifest, now time.Time, all bool) (manifest.Manifest, error) {
	root, err := openSourceDir(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	seen, err := scan(ctx, root, v.knownOf(root, all))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dir, err)
	}
	m := manifestOf(seen)
	setTimes(m, seen, base, root, now)
	return m, nil
}

// setTimes gives each file its time. source is where seen was seen; a time to come is now.
func setTimes(m manifest.Manifest, seen []*scanned, base manifest.Manifest, source *os.File, now time.Time) {
	times := make(map[string]int64, len(seen))
	for _, s := range seen {
		times[s.Path] = min(max(s.modified.Sec, 1), now.Unix(), manifest.MaxModified)
	}
	for i := range m {
		if m[i].Type == 'f' {
			m[i].Modified = times[m[i].Path]
		}
	}
	directories := &dirs{root: source}
	defer directories.close()
	var bytecode map[string][]string // made when it is first asked for
	timesIn(m, base, func(i int, before int64) {
		if strings.HasSuffix(m[i].Path, ".py") {
			if bytecode == nil {
				bytecode = bytecodeOf(m)
			}
			if validFor(directories, bytecode[m[i].Path], m[i].Modified, m[i].Size) {
				return
			}
		}
		m[i].Modified = before
	})
}

// timesIn calls keep for each file that base has, there or elsewhere, with another time: that of
// the same path first.
func timesIn(m manifest.Manifest, base manifest.Manifest, keep func(i int, before int64)) {
	type content struct {
		sum  [sha256.Size]byte
		mode uint32
	}
	moved := map[content][]int{}
	for i, j := 0, 0; i < len(m); i++ {
		for j < len(base) && base[j].Path < m[i].Path {
			j++
		}
		if m[i].Type != 'f' {
			continue
		}
		kept := m[i]
		if j < len(base) {
			kept.Modified = base[j].Modified
		}
		switch {
		case j == len(base) || kept != base[j]:
			key := content{m[i].SHA256, m[i].Mode}
			moved[key] = append(moved[key], i)
		case kept != m[i]:
			keep(i, kept.Modified)
		}
	}
	for j := range base {
		key := content{base[j].SHA256, base[j].Mode}
		for _, i := range moved[key] {
			if base[j].Type == 'f' && base[j].Modified != m[i].Modified {
				keep(i, base[j].Modified)
			}
		}
		delete(moved, key)
	}
}

// bytecode lists the files of a tree that may be the bytecode of a source, by the path of that:
// dir/__pycache__/name.cpython-312.pyc (PEP 3147) and dir/name.pyc, of dir/name.py.
func bytecodeOf(m manifest.Manifest) map[string][]string {
	of := map[string][]string{}
	for i := range m {
		path := m[i].Path
		if m[i].Type != 'f' || !strings.HasSuffix(path, ".pyc") {
			continue
		}
		dir, name := manifest.Split(path)
		name = strings.TrimSuffix(name, ".pyc")
		if above, last := manifest.Split(dir); last == "__pycache__" {
			dir = above
			name, _, _ = strings.Cut(name, ".")
		}
		source := name + ".py"
		if dir != "" {
			source = dir + "/" + source
		}
		of[source] = append(of[source], path)
	}
	return of
}

// validFor says whether one of some files of bytecode names a source of that time, in seconds, and
// size. What cannot be read as bytecode is none.
func validFor(directories *dirs, bytecode []string, modified, size int64) bool {
	for _, path := range bytecode {
		file, err := directories.openFile(path)
		if err != nil {
			continue
		}
		var head [16]byte
		_, err = io.ReadFull(file, head[:])
		_ = file.Close()
		if err == nil && names(head, uint32(modified), uint32(size)) {
			return true
		}
	}
	return false
}

// firstWithFlags is the magic number of CPython 3.7, from which on flags come behind it (PEP 552);
// those of Python 2 are above 20000 (Lib/importlib/_bootstrap_external.py lists them).
const firstWithFlags, python2 = 3390, 20000

// names reads the head of a file of bytecode: magic number, flags, and the time and size of its
// source, 4 bytes each, the lowest first. With a flag set it goes by a hash of its source, and by
// no time.
func names(head [16]byte, modified, size uint32) bool {
	word := func(at int) uint32 { return binary.LittleEndian.Uint32(head[at:]) }
	if head[2] != '\r' || head[3] != '\n' {
		return false
	}
	if magic := binary.LittleEndian.Uint16(head[:]); magic < firstWithFlags || magic > python2 {
		return word(4) == modified
	}
	return word(4) == 0 && word(8) == modified && word(12) == size
}
