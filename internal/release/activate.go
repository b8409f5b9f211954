package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"ebs-release/internal/generation"
)

// ErrFenced: a higher generation is active here already, or this generation with another release. Nothing was changed.
var ErrFenced = errors.New("a newer generation is active")

// Activate makes `current` point to a release that is here, and raises the generation: a lower one is refused from then on. Once more
// the same changes nothing.
func (t Tree) Activate(ctx context.Context, id, digest string, number int64) error {
	if err := checkID(id); err != nil {
		return err
	}
	if err := generation.Check(number); err != nil {
		return fmt.Errorf("activate %s: %w", id, err)
	}
	err := t.locked(ctx, func(root *os.Root) error { return t.activate(root, id, digest, number) })
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
	// The fence first: if the power goes in between, an older activation that comes late is refused, and this one is repeated.
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

// Prune removes the oldest releases until keep are left, and what is left of others. The current release always stays; so do those in
// spare, if given. It returns the ids that are gone. A folder of another user can't be removed: then all the rest is, and the error says so.
func (t Tree) Prune(ctx context.Context, keep int, spare ...string) ([]string, error) {
	var gone []string
	err := t.locked(ctx, func(root *os.Root) error {
		current, err := t.current(root)
		if err != nil {
			return err
		}
		_, active, err := t.fence(root)
		if err != nil {
			return err
		}
		stays := map[string]bool{current: true, active: true}
		for _, id := range spare {
			stays[id] = true
		}
		ids, err := t.releases(root)
		if err != nil {
			return err
		}
		for i := 0; i < len(ids) && len(ids)-len(gone) > max(keep, 1); i++ {
			if stays[ids[i]] {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := t.remove(root, ids[i]); err != nil {
				return err
			}
			gone = append(gone, ids[i])
		}
		foreign, err := t.sweep(root)
		return errors.Join(foreign, err, t.removeLoneManifests(root))
	})
	if err != nil {
		return gone, fmt.Errorf("prune %s: %w", t.Root, err)
	}
	return gone, nil
}

// remove takes the name away first: what is half removed must not look like a release.
func (t Tree) remove(root *os.Root, id string) error {
	name := releasesDir + "/" + id
	if err := root.Rename(name, name+partialExt); err != nil {
		return err
	}
	if err := root.Remove(stateDir + "/" + id + manifestExt); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// What another user's folder keeps is no release any more: sweep says so.
	if err := removeTree(root, name+partialExt); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

// removeLoneManifests removes manifests without a tree, left by a crash between the two.
func (t Tree) removeLoneManifests(root *os.Root) error {
	entries, err := readFolder(root, stateDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), manifestExt)
		if !ok || !ValidID(id) {
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
