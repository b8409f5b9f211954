package release

import (
	"errors"
	"io/fs"
	"os"
)

// recycle puts the folders of a release that nobody needs any more into an empty partial tree, when the volume holds keep releases: most of its files
// are those of the new release, too, and neither have to be linked anew nor removed later. It returns the release that is gone, "" when there is none
// to take.
//
// Not a byte of it is trusted: assembly looks at each name that it finds, and keeps only what is the base's own inode. Power may fail anywhere: the
// release loses its name, on disk, before anything else happens to it, and what has no release's name is swept away by the next one that stages.
//
// A program that was started in that tree and still runs must not see it turn into another release. Its own folder it never does: the partial tree's
// is a new one, and only what was in the old one is moved. For folders below it, inUse is asked.
func (t Tree) recycle(root *os.Root, id string, keep int, needed string) (string, error) {
	old, err := t.leastNeeded(root, keep, needed)
	if err != nil || old == "" {
		return "", err
	}
	from, to := releasesDir+"/"+old+partialExt, releasesDir+"/"+id+partialExt
	if err := root.Rename(releasesDir+"/"+old, from); err != nil {
		return "", err
	}
	if err := t.syncDir(root, releasesDir); err != nil {
		return "", err
	}
	if err := root.Remove(stateDir + "/" + old + manifestExt); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	entries, err := readFolder(root, from)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		// Its owner may not move a folder that it may not write to.
		if err := root.Rename(from+"/"+e.Name(), to+"/"+e.Name()); err != nil && !errors.Is(err, fs.ErrPermission) {
			return "", err
		}
	}
	if err := removeTree(root, from); err != nil && !errors.Is(err, fs.ErrPermission) {
		return "", err
	}
	return old, nil
}

// leastNeeded is the oldest release that is not current, was not so before this one, and is not needed otherwise.
func (t Tree) leastNeeded(root *os.Root, keep int, needed string) (string, error) {
	ids, err := t.releases(root)
	if err != nil || len(ids) < keep {
		return "", err
	}
	current, err := t.current(root)
	if err != nil {
		return "", err
	}
	_, active, err := t.fence(root)
	if err != nil {
		return "", err
	}
	previous, err := root.Readlink(previousPath)
	if err != nil { // nobody knows yet: none is taken until after the next activation
		return "", nil
	}
	for _, id := range ids {
		if id != current && id != active && id != previous && id != needed {
			if inUse(t.Path(id)) {
				return "", nil
			}
			return id, nil
		}
	}
	return "", nil
}
