package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"ebs-release/internal/gc"
	"ebs-release/internal/generation"
	"ebs-release/internal/manifest"
)

// ErrFenced says that a higher generation is active here already, or this generation with another
// release. Nothing was changed.
var ErrFenced = errors.New("a newer generation is active")

// Activate makes `current` point to a release that is here, and raises the generation: a lower one
// is refused from then on. Once more the same changes nothing.
func (t Tree) Activate(ctx context.Context, id, digest string, number int64) error {
	if err := manifest.CheckID(id); err != nil {
		return err
	}
	if err := generation.Check(number); err != nil {
		return fmt.Errorf("activate %s: %w", id, err)
	}
	err := t.locked(ctx, func(root *os.Root) error {
		// A rollback takes nothing in, which would sweep this away, and may make a snapshot.
		_ = removeFetched(root)
		return t.activate(root, id, digest, number)
	})
	if err != nil {
		return fmt.Errorf("activate generation %d, release %s: %w", number, id, err)
	}
	return nil
}

func (t Tree) activate(root *os.Root, id, digest string, number int64) error {
	have, active, err := t.fence(root)
	if err != nil {
		return err
	}
	if have > number || have == number && active != id {
		return fmt.Errorf("%w: %d, release %s", ErrFenced, have, active)
	}
	if err := t.checkRelease(root, id, digest); err != nil {
		return err
	}
	// The fence first: if the power goes in between, an older activation that comes late is
	// refused, and this one is repeated.
	if have != number {
		if err := t.writeStamp(root, fenceName, number, id); err != nil {
			return err
		}
	}
	if current, err := t.current(root); err == nil && current == id {
		return nil
	}
	return t.flip(root, id)
}

// flip replaces `current` in one step: an application sees the old release or the new one.
func (t Tree) flip(root *os.Root, id string) error {
	if before, err := t.current(root); err == nil && before != "" {
		if err := t.link(root, before, previousPath); err != nil {
			return err
		}
	}
	if err := t.link(root, releasesDir+"/"+id, currentName); err != nil {
		return err
	}
	return t.syncDir(root, ".")
}

// link makes a symlink, or replaces it in one step.
func (t Tree) link(root *os.Root, target, name string) error {
	temporary := stateDir + "/." + path.Base(name)
	if err := root.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := root.Symlink(target, temporary); err != nil {
		return err
	}
	who, err := t.owner(root)
	if err != nil {
		return err
	}
	if who != asIs {
		if err := root.Lchown(temporary, who.uid, who.gid); err != nil {
			return err
		}
	}
	return root.Rename(temporary, name)
}

// Prune removes the releases that nobody needs, by package gc's rule, and what is left of others.
// It returns the ids that are gone. A directory of another user cannot be removed: then all the
// rest is, and the error says so.
func (t Tree) Prune(ctx context.Context, wanted gc.Wanted) ([]string, error) {
	return t.give(ctx, func(v gc.Volume) (ids []string) {
		for _, item := range slices.Backward(wanted.Trees(v)) { // what is needed least first
			if !item.Keep {
				ids = append(ids, item.ID)
			}
		}
		return ids
	})
}

// Remove removes releases, unless they are current or in use.
func (t Tree) Remove(ctx context.Context, ids ...string) error {
	gone, err := t.give(ctx, func(v gc.Volume) []string {
		return slices.DeleteFunc(slices.Clone(ids), func(id string) bool {
			return !slices.Contains(v.Releases, id) || id == v.Current || id == v.Active || v.InUse[id] != ""
		})
	})
	if err == nil && len(gone) < len(ids) {
		err = fmt.Errorf("remove releases from %s: of %s only %s could go: the others are gone already, are current, or are in use", t.Root,
			strings.Join(ids, ", "), cmp.Or(strings.Join(gone, ", "), "none"))
	}
	return err
}

// Volume says what is on this one, as package gc wants to know it.
func (t Tree) Volume() (gc.Volume, error) {
	root, err := t.open()
	if err != nil {
		return gc.Volume{}, err
	}
	defer func() { _ = root.Close() }()
	v, err := t.volume(root)
	v.InUse = t.inUse(v.Releases)
	return v, err
}

// volume says what is on this one, but not what is in use: that takes a look at every process.
func (t Tree) volume(root *os.Root) (v gc.Volume, err error) {
	if v.Current, err = t.current(root); err != nil {
		return v, err
	}
	if _, v.Active, err = t.fence(root); err != nil {
		return v, err
	}
	v.Previous, _ = root.Readlink(previousPath) // "": not known
	v.Releases, err = t.releases(root)
	return v, err
}

// give removes what choose takes. It is asked again when something goes, then with what is in use.
func (t Tree) give(ctx context.Context, choose func(gc.Volume) []string) (gone []string, err error) {
	err = t.locked(ctx, func(root *os.Root) error {
		v, err := t.volume(root)
		if err != nil {
			return err
		}
		ids := choose(v)
		if len(ids) > 0 {
			v.InUse = t.inUse(v.Releases)
			ids = choose(v)
		}
		for _, id := range ids {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := t.remove(ctx, root, id); err != nil {
				return err
			}
			gone = append(gone, id)
		}
		foreign, err := t.sweep(root)
		return errors.Join(foreign, err, removeFetched(root), t.removeLoneManifests(root))
	})
	if err != nil {
		return gone, fmt.Errorf("prune %s: %w", t.Root, err)
	}
	return gone, nil
}

// remove takes the name away first: what is half removed must not look like a release.
func (t Tree) remove(ctx context.Context, root *os.Root, id string) error {
	name := releasesDir + "/" + id
	began, err := justNow()
	if err != nil {
		return err
	}
	ours := t.onlyOurs(ctx, root, name, t.spans(root))
	if err := root.Rename(name, name+partialExt); err != nil {
		return err
	}
	if err := root.Remove(stateDir + "/" + id + manifestExt); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// What another user's directory keeps is no release any more: sweep says so.
	if err := removeTree(root, name+partialExt); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if !ours {
		return nil
	}
	return t.noteSpan(root, began)
}

// removeLoneManifests removes manifests without a tree, left by a crash between the two.
func (t Tree) removeLoneManifests(root *os.Root) error {
	entries, err := readFolder(root, stateDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), manifestExt)
		if !ok || !manifest.ValidID(id) {
			continue
		}
		if _, err := root.Lstat(releasesDir + "/" + id); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := root.Remove(stateDir + "/" + e.Name()); err != nil {
			return err
		}
	}
	return nil
}
