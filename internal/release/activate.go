package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
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

// ErrNotCurrent says that another release is current than the one that a change was decided on. The
// caller decides anew. Nothing was changed.
var ErrNotCurrent = errors.New("another release has become current meanwhile")

// From is what was seen when a flip was decided on.
type From struct {
	Release string // what is current; "": nothing
	Drained bool   // and drain.d has taken it out of service
}

// Activate makes `current` point to a release that is here, and raises the generation: a lower one
// is refused from then on. Once more the same changes nothing. It is for a volume on which no
// application is in service; else see ActivateFrom.
func (v *Volume) Activate(ctx context.Context, id, digest string, number int64) error {
	return v.activateIf(ctx, id, digest, number, func() error { return nil })
}

// ActivateFrom is Activate where that is still so: between drain.d and the flip another verb may
// have made something else current, which is in service. Else it is ErrNotCurrent.
func (v *Volume) ActivateFrom(ctx context.Context, from From, id, digest string, number int64) error {
	return v.activateIf(ctx, id, digest, number, func() error {
		if err := v.checkCurrent(from.Release); err != nil || !from.Drained {
			return err
		}
		drained, err := v.Drained()
		if err == nil && !drained {
			err = fmt.Errorf("%w: release %s is in service again", ErrNotCurrent, from.Release)
		}
		return err
	})
}

func (v *Volume) checkCurrent(id string) error {
	current, err := v.Current()
	if err == nil && current != id {
		err = fmt.Errorf("%w: %s/%s leads to release %q, not to %q", ErrNotCurrent, v.path, currentName, current, id)
	}
	return err
}

func (v *Volume) activateIf(ctx context.Context, id, digest string, number int64, still func() error) error {
	if err := manifest.CheckID(id); err != nil {
		return err
	}
	if err := generation.Check(number); err != nil {
		return fmt.Errorf("activate %s: %w", id, err)
	}
	err := v.locked(ctx, func() error {
		if err := still(); err != nil {
			return err
		}
		// A rollback takes nothing in, which would sweep this away, and may make a snapshot.
		_ = v.removeFetched()
		return v.activate(id, digest, number)
	})
	if err != nil {
		return fmt.Errorf("activate generation %d, release %s: %w", number, id, err)
	}
	return nil
}

// MayActivate is an error where Activate would change nothing.
func (v *Volume) MayActivate(id, digest string, number int64) error {
	_, err := v.mayActivate(id, digest, number)
	if err != nil {
		return fmt.Errorf("activate generation %d, release %s: %w", number, id, err)
	}
	return nil
}

func (v *Volume) mayActivate(id, digest string, number int64) (fence int64, err error) {
	if err := errors.Join(manifest.CheckID(id), generation.Check(number)); err != nil {
		return 0, err
	}
	fence, active, err := v.Fence()
	if err != nil {
		return 0, err
	}
	if fence > number || fence == number && active != id {
		return 0, fmt.Errorf("%w: %d, release %s", ErrFenced, fence, active)
	}
	return fence, v.checkRelease(id, digest)
}

func (v *Volume) activate(id, digest string, number int64) error {
	have, err := v.mayActivate(id, digest, number)
	if err != nil {
		return err
	}
	// The fence first: if the power goes in between, an older activation that comes late is
	// refused, and this one is repeated.
	if have != number {
		if err := v.writeStamp(fenceName, number, id); err != nil {
			return err
		}
	}
	if current, err := v.Current(); err == nil && current == id {
		return nil
	}
	return v.flip(id)
}

// flip replaces `current` in one step: an application sees the old release or the new one.
func (v *Volume) flip(id string) error {
	if before, err := v.Current(); err == nil && before != "" {
		if err := v.link(before, previousPath); err != nil {
			return err
		}
	}
	if err := v.link(releasesDir+"/"+id, currentName); err != nil {
		return err
	}
	return v.syncDir(".")
}

// link makes a symlink, or replaces it in one step.
func (v *Volume) link(target, name string) error {
	temporary := stateDir + "/." + path.Base(name)
	if err := v.root.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := v.root.Symlink(target, temporary); err != nil {
		return err
	}
	who, err := v.owner()
	if err != nil {
		return err
	}
	if who != asIs {
		if err := v.root.Lchown(temporary, who.uid, who.gid); err != nil {
			return err
		}
	}
	return v.root.Rename(temporary, name)
}

// Prune removes the releases that nobody needs, by package gc's rule, and what is left of others.
// It returns the ids that are gone. A directory of another user cannot be removed: then all the
// rest is, and the error says so.
func (v *Volume) Prune(ctx context.Context, wanted gc.Wanted) ([]string, error) {
	return v.give(ctx, func(on gc.Volume) (ids []string) {
		for _, item := range slices.Backward(wanted.Trees(on)) { // what is needed least first
			if !item.Keep {
				ids = append(ids, item.ID)
			}
		}
		return ids
	})
}

// Remove removes releases, unless they are current or in use.
func (v *Volume) Remove(ctx context.Context, ids ...string) error {
	gone, err := v.give(ctx, func(on gc.Volume) []string {
		return slices.DeleteFunc(slices.Clone(ids), func(id string) bool {
			return !slices.Contains(on.Releases, id) || id == on.Current || id == on.Active || on.InUse[id] != ""
		})
	})
	if err == nil && len(gone) < len(ids) {
		err = fmt.Errorf("remove releases from %s: of %s only %s could go: the others are gone already, are current, or are in use", v.path,
			strings.Join(ids, ", "), cmp.Or(strings.Join(gone, ", "), "none"))
	}
	return err
}

// Inventory says what is on the volume, as package gc wants to know it.
func (v *Volume) Inventory() (gc.Volume, error) {
	on, err := v.inventory()
	on.InUse = v.inUse(on.Releases)
	return on, err
}

// inventory is Inventory without what is in use: that takes a look at every process.
func (v *Volume) inventory() (on gc.Volume, err error) {
	if on.Current, err = v.Current(); err != nil {
		return on, err
	}
	if _, on.Active, err = v.Fence(); err != nil {
		return on, err
	}
	on.Previous = v.Previous()
	on.Releases, err = v.Releases()
	return on, err
}

// give removes the releases that choose returns. When there are any, choose is called once more
// with the trees that are in use, as to find these takes a look at every process.
func (v *Volume) give(ctx context.Context, choose func(gc.Volume) []string) (gone []string, err error) {
	err = v.locked(ctx, func() error {
		on, err := v.inventory()
		if err != nil {
			return err
		}
		ids := choose(on)
		if len(ids) > 0 {
			on.InUse = v.inUse(on.Releases)
			ids = choose(on)
		}
		for _, id := range ids {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := v.remove(ctx, id); err != nil {
				return err
			}
			gone = append(gone, id)
		}
		foreign, err := v.sweep()
		return errors.Join(foreign, err, v.removeFetched(), v.removeLoneManifests())
	})
	if err != nil {
		return gone, fmt.Errorf("prune %s: %w", v.path, err)
	}
	return gone, nil
}

// remove takes the name away first: what is half removed must not look like a release.
func (v *Volume) remove(ctx context.Context, id string) error {
	name := releasesDir + "/" + id
	began, err := justNow()
	if err != nil {
		return err
	}
	ours := v.onlyOurs(ctx, name, v.spans())
	if err := v.root.Rename(name, name+partialExt); err != nil {
		return err
	}
	if err := v.root.Remove(stateDir + "/" + id + manifestExt); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// What another user's directory keeps is no release any more: sweep says so.
	if err := v.removeTree(name + partialExt); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if !ours {
		return nil
	}
	return v.noteSpan(began)
}

// removeLoneManifests removes manifests without a tree, left by a crash between the two.
func (v *Volume) removeLoneManifests() error {
	entries, err := v.readDirectory(stateDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), manifestExt)
		if !ok || !manifest.ValidID(id) {
			continue
		}
		if _, err := v.root.Lstat(releasesDir + "/" + id); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := v.root.Remove(stateDir + "/" + e.Name()); err != nil {
			return err
		}
	}
	return nil
}
