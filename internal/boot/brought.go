package boot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Found is the volume of a disk of this machine that holds releases, as it was looked at: read
// only, and without a word of EC2.
type Found struct {
	Volume           // with ID, Attached, Protected and Brought
	Made       bool  // an agent made it, and has served from it
	Served     bool  // EC2 brought it, and an agent has served from it
	Generation int64 // its fence
	Unfit      error // why it cannot become what is wanted; nil: it may
}

// broughtPatience is how long disks may take to say what is on them: a disk that does not answer
// may be anybody's.
const broughtPatience = 10 * time.Second

// adoptBrought takes on a volume that EC2 attached with the launch, and asks EC2 nothing: neither
// whose it is, which the disk says, nor for snapshots of a later commit, as its own fence is at
// least that of the snapshot that it was made from. b.volume says whether there was one.
//
// Where an agent has made a volume of this instance, that one goes on: the two know nothing of each
// other's fences. One that is of no use is left alone: whose it is, is not known.
func (b *boot) adoptBrought(ctx context.Context) error {
	if len(b.made) > 0 || len(b.had) > 0 { // of this run, and may have served nobody yet
		return nil
	}
	look, cancel := context.WithTimeout(ctx, broughtPatience)
	found, err := b.Disks.Brought(look, b.want)
	cancel()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if b.unsure = err != nil; b.unsure { // which may have served: see noneNewer
		b.log.Warn("a disk does not say whether it is a release volume that came with this instance", "error", err)
	}
	b.proven = nil
	for _, f := range found {
		if f.Made {
			b.proven = append(b.proven, Volume{ID: f.ID, Attached: true, Protected: true, Unlisted: true, Store: f.Store})
		}
	}
	if len(b.proven) > 0 {
		return nil
	}
	for _, f := range found {
		if f.Served {
			b.above = max(b.above, f.Generation)
		}
	}
	mounted, err := b.broughtMounted(ctx, found)
	if err != nil || mounted || b.Older {
		return err
	}
	usable, err := b.usable(found)
	if err != nil || len(usable) == 0 {
		return err
	}
	best := slices.MaxFunc(usable, func(f, g Found) int {
		return cmp.Or(cmp.Compare(f.Generation, g.Generation), cmp.Compare(g.ID, f.ID))
	})
	b.log.Info("taking on a volume that came with this instance", "volume", best.ID, "generation", best.Generation)
	b.volume, b.adopted = best.Volume, best.Served
	return nil
}

// broughtMounted says whether one of them is served, and stays so.
func (b *boot) broughtMounted(ctx context.Context, found []Found) (bool, error) {
	var volumes []Volume
	for _, f := range found {
		volumes = append(volumes, f.Volume)
	}
	if len(volumes) == 0 {
		return false, nil
	}
	mounted, err := b.Mounts.Look(ctx, volumes)
	if err != nil || mounted == nil || mounted.VolumeID == "" {
		return false, err
	}
	err = b.adoptMounted(ctx, volumes, *mounted)
	return b.serving, err
}

// usable are those that may be taken on; why the others are not, is said.
func (b *boot) usable(found []Found) (usable []Found, err error) {
	for _, f := range found {
		why := f.Unfit
		if why == nil && f.Generation > b.want.Generation {
			why = fmt.Errorf("it has seen generation %d, the pointer says %d: %w", f.Generation, b.want.Generation, ErrOlder)
		}
		switch {
		case b.removed[f.ID]:
		case why == nil:
			usable = append(usable, f)
		case f.Served && pointerIsWrong(why):
			return nil, wrongPointer(fmt.Errorf("%s: %w", f.ID, why))
		default:
			b.log.Warn("a volume that came with this instance is not used, and left alone", "volume", f.ID, "why", why)
			b.removed[f.ID] = true
		}
	}
	return usable, nil
}

// notBrought is the way on when a volume that EC2 brought cannot be used: another one of these, or
// one that is made as ever. It stays where it is, attached and unmounted. nil: there is no such
// way, and the error stands.
func (b *boot) notBrought(ctx context.Context, failed *Error) *back {
	fromStore := failed.Stage == StageCatchUp && !ofTheVolume(failed)
	switch failed.Stage {
	case StageFind, StageCheck, StageMount, StageCatchUp, StageVerify:
		if b.adopted && pointerIsWrong(failed.Err) && !b.Older { // it has served: no other one may go back
			failed.Err = wrongPointer(failed.Err)
			return nil
		}
		if fromStore && b.want.Behind { // another volume would need the same store
			return nil
		}
	case StageReport:
		if !errors.Is(failed.Err, ErrDenied) {
			return nil
		}
	default:
		return nil
	}
	b.log.Warn("a volume that came with this instance is not used, and left alone", "volume", b.volume.ID, "why", failed.Err)
	b.removed[b.volume.ID] = true
	b.forget(ctx)
	return &back{to: StageAdopt, why: "the volume that came with this instance is of no use"}
}
