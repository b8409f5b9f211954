package release

import (
	"fmt"
	"os"

	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

// Tree is one release's directory, and what is known of it. The zero value is none, with nothing in
// it.
type Tree struct {
	manifest manifest.Manifest
	dir      *os.File
	whole    unix.Timespec // the last time at which its files were written: see publish
	spans    spans         // of the volume, from when the tree was opened
}

func (t *Tree) close() { _ = t.dir.Close() }

// openTree opens a release that is there, and reads its manifest.
func (v *Volume) openTree(id string) (*Tree, error) {
	file, err := v.openManifest(id)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	m, err := manifest.Parse(file)
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", id, err)
	}
	t, err := v.openUnread(id, file)
	if err != nil {
		return nil, err
	}
	t.manifest = m
	return t, nil
}

// openUnread opens a release without what is in its manifest, which may be large.
func (v *Volume) openUnread(id string, file *os.File) (*Tree, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", id, err)
	}
	t := &Tree{whole: unix.NsecToTimespec(info.ModTime().UnixNano()), spans: v.spans()} // see publish
	if t.dir, err = v.openDirectory(releasesDir + "/" + id); err != nil {
		return nil, fmt.Errorf("release %s: %w", id, err)
	}
	return t, nil
}

// ours says that nobody but us touched a file since it was made.
func (t *Tree) ours(e *manifest.Entry, st *unix.Stat_t) bool {
	return untouched(e, st, t.whole) && t.spans.has(st.Ctim)
}
