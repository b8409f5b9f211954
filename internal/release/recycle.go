package release

import (
	"context"
	"errors"
	"io/fs"

	"ebs-release/internal/gc"
)

// recycle puts the directories of a release that nobody needs any more into an empty partial tree,
// when the volume holds keep releases: most of its files are those of the new release, too, and
// neither have to be linked anew nor removed later. It returns the release that is gone, "" when
// there is none to take.
//
// Not a byte of it is trusted: assembly looks at each name that it finds, and keeps only what is
// the base's own inode. Power may fail anywhere: the release loses its name, on disk, before
// anything else happens to it, and what has no release's name is swept away by the next one that
// catches up.
//
// Nobody who looks into that tree, a container that has it bound or a program that was started
// there, must see it turn into another release. So it is only done by who can see all of them:
// root. For others the kernel hides where another user's programs are: they make a new tree.
func (v *Volume) recycle(ctx context.Context, id string, a *assembly, wanted gc.Wanted, base string) (string, error) {
	old, err := v.spare(wanted, base)
	if err != nil || old == "" {
		return "", err
	}
	a.hides = !v.onlyOurs(ctx, releasesDir+"/"+old, v.spans())
	from, to := releasesDir+"/"+old+partialExt, releasesDir+"/"+id+partialExt
	if err := v.root.Rename(releasesDir+"/"+old, from); err != nil {
		return "", err
	}
	if err := v.syncDir(releasesDir); err != nil {
		return "", err
	}
	if err := v.root.Remove(stateDir + "/" + old + manifestExt); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	entries, err := v.readDirectory(from)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		// Its owner may not move a directory that it may not write to.
		if err := v.root.Rename(from+"/"+e.Name(), to+"/"+e.Name()); err != nil && !errors.Is(err, fs.ErrPermission) {
			return "", err
		}
	}
	if err := v.removeTree(from); err != nil && !errors.Is(err, fs.ErrPermission) {
		return "", err
	}
	return old, nil
}

// spare is the release that is needed least, if there is one that nobody needs, and the volume
// holds as many as are to be kept.
func (v *Volume) spare(wanted gc.Wanted, base string) (string, error) {
	on, err := v.inventory()
	if err != nil || len(on.Releases) < max(wanted.Keep, 1) || !seesAll() {
		return "", err
	}
	if on.Previous == "" { // nobody knows yet: none is taken until after the next activation
		return "", nil
	}
	on.Base, on.InUse = base, v.inUse(on.Releases)
	held := wanted
	held.Keep = max(held.Keep, 2) // also with 1: until the new one is committed, the one before is what a rollback needs
	if ids := held.ForRoom(on); len(ids) > 0 && held.Held[ids[0]] == "" {
		return ids[0], nil
	}
	return "", nil
}
