package boot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ebs-release/internal/advice"
)

// adopt looks before anything is done: at the disks that EC2 brought (brought.go), at the mount
// point, and at the volumes that earlier runs made for this instance. One that may hold what is
// wanted is taken on from where it stands; the others go. So a reboot, a stop and start, and a
// crash at any step end in one volume.
//
// What a volume holds, the volume itself says, after it is mounted where nobody sees it (verify).
// Its tags are hints: a push over ssh may have moved it on since.
func (b *boot) adopt(ctx context.Context) (err error) {
	b.forget(ctx)
	if b.want, err = b.wanted(*b.pointer); err != nil {
		return err
	}
	if err := b.adoptBrought(ctx); err != nil || b.volume.ID != "" {
		return err
	}
	mine, mounted, err := b.lookAround(ctx)
	if err != nil {
		return err
	}
	if mounted != nil {
		if err := b.newerByTags(mine, mounted.VolumeID); err != nil {
			return err
		}
		if err := b.adoptMounted(ctx, mine, *mounted); err != nil {
			return err
		}
	}
	if !b.serving {
		b.choose(mine)
	}
	if err := b.newerByTags(mine, b.volume.ID); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, tidying)
	defer cancel()
	for _, v := range mine {
		if v.ID == b.volume.ID || b.removed[v.ID] {
			continue
		}
		b.log.Info("removing a volume of an earlier boot", "volume", v.ID, "generation", v.Reported.Generation, "snapshot", v.SnapshotID)
		b.dispose(ctx, v)
	}
	return nil
}

// An answer of EC2 may be older than the volume that is mounted: then it is asked again, for a
// while. Nobody who is served has to suffer for it.
const (
	listingLag   = 10 * time.Second
	listingPause = time.Second
)

// lookAround says which volumes this instance has, and which of them is at the mount point.
func (b *boot) lookAround(ctx context.Context) (mine []Volume, mounted *Mounted, err error) {
	for began := time.Now(); ; {
		if mine, err = b.mine(ctx); err != nil {
			return nil, nil, err
		}
		mounted, err = b.Mounts.Look(ctx, mine)
		known := mounted == nil || mounted.VolumeID != "" || !mounted.OfEBS
		if err != nil || known {
			return mine, mounted, err
		}
		if time.Since(began) >= listingLag {
			return b.byItsOwnWord(ctx, mine, mounted)
		}
		b.log.Info("EC2 does not list the volume that is mounted: it is asked again", "mounted", mounted.What)
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(listingPause):
		}
	}
}

// byItsOwnWord takes the mounted volume for one of this instance's where its disk says so: that it
// is the very volume which an agent has made and served from. EC2 is not needed to go on serving
// it. It is removed only when EC2 lists it, too.
func (b *boot) byItsOwnWord(ctx context.Context, mine []Volume, mounted *Mounted) ([]Volume, *Mounted, error) {
	says, err := b.Mounts.Look(ctx, b.proven)
	if err != nil || says == nil || says.VolumeID == "" {
		return mine, mounted, err
	}
	b.log.Warn("EC2 does not list the volume that is mounted, but its disk says whose it is", "volume", says.VolumeID)
	at := slices.IndexFunc(b.proven, func(v Volume) bool { return v.ID == says.VolumeID })
	return append(mine, b.proven[at]), says, nil
}

// mine is the volumes of this instance, as EC2, this run and the kernel know them.
func (b *boot) mine(ctx context.Context) ([]Volume, error) {
	mine, err := b.Volumes.Mine(ctx, b.me)
	if err != nil {
		return nil, err
	}
	for _, had := range b.had {
		if !slices.ContainsFunc(mine, func(v Volume) bool { return v.ID == had.ID }) {
			mine = append(mine, had)
		}
	}
	mine = slices.DeleteFunc(mine, func(v Volume) bool { return b.removed[v.ID] })
	return mine, b.markHere(ctx, mine)
}

// markHere takes the kernel's word for what is attached: an answer of EC2 may be an old one, a disk
// that is here is attached.
func (b *boot) markHere(ctx context.Context, mine []Volume) error {
	for i, v := range mine {
		if v.Attached || v.Leaving {
			continue
		}
		here, err := b.Disks.Here(ctx, v)
		if err != nil {
			return fmt.Errorf("look whether %s is a disk of this machine: %w", v.ID, err)
		}
		if here {
			b.log.Info("EC2 does not say that the volume is attached, but its disk is here", "volume", v.ID)
			mine[i].Attached = true
		}
	}
	return nil
}

// tidying is how long a boot may be busy with volumes that it does not need: well below the budget
// of adopt. What is not gone by then is left.
const tidying = 45 * time.Second

// adoptMounted takes what is at the mount point: served already when it is what is wanted,
// unmounted when it is an older release of ours, which is then a volume like the others.
func (b *boot) adoptMounted(ctx context.Context, mine []Volume, mounted Mounted) error {
	at := slices.IndexFunc(mine, func(v Volume) bool { return v.ID == mounted.VolumeID })
	if at < 0 {
		return advice.Try(fmt.Errorf("mounted at %s, which is no release volume of this instance", mounted.What), "unmount it")
	}
	stale := b.holds(ctx, mine[at], mounted.Tree)
	if pointerIsWrong(stale) && !b.Older {
		return wrongPointer(stale)
	}
	if stale != nil && !errors.Is(stale, ErrMismatch) && !pointerIsWrong(stale) {
		return fmt.Errorf("look whether the release at %s is the wanted one (it stays mounted): %w", mounted.What, stale)
	}
	if stale == nil {
		b.volume, b.disk = mine[at], mounted.Disk
		b.adopted, b.serving, b.sound = true, true, true
		done := false
		b.heldGeneration, b.heldRelease, done = mounted.Tree.Holding(ctx)
		b.pending = !done
		return nil
	}
	if !pointerIsWrong(stale) {
		if err := b.inReach(ctx, mounted); err != nil {
			return err
		}
	}
	b.log.Info("what is mounted is not what is wanted", "volume", mounted.VolumeID, "why", stale)
	if err := b.Mounts.Unmount(ctx); err != nil {
		return fmt.Errorf("replace the mounted release (%w): %w", stale, err)
	}
	if b.want.Document == "" || pointerIsWrong(stale) { // else it may catch up
		b.dispose(ctx, mine[at])
	}
	return nil
}

// inReach is nil when what is served may be given up for what is wanted. Where packs of the store
// lead there it goes on being served until they can be had.
func (b *boot) inReach(ctx context.Context, mounted Mounted) error {
	if b.want.Document == "" { // no packs
		return nil
	}
	if end, ok := ctx.Deadline(); ok { // the packs are read once more to catch up: that has to fit, too
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/2)
		defer cancel()
	}
	err := mounted.Tree.InReach(ctx, b.want)
	switch {
	case err == nil, errors.Is(err, ErrMismatch): // another volume may do
		return nil
	case errors.Is(err, ErrGone) && !b.gone:
		b.gone, b.pointer = true, nil
		return &back{to: StageResolve, why: err.Error()}
	}
	return advice.Try(fmt.Errorf("bring what is mounted at %s to generation %d (it stays mounted): %w", mounted.What, b.want.Generation, err),
		"see whether this instance reaches the store of the pointer, and its packs")
}

// newerByTags is an error when a volume that would be removed without a look inside was reported
// with a higher generation than the pointer names: what is reported was committed, so the pointer
// that was read is an old one. The volume seen says itself what it holds.
func (b *boot) newerByTags(mine []Volume, seen string) error {
	for _, v := range mine {
		if b.Older || v.ID == seen || b.foreign(v) || b.removed[v.ID] || b.want.Generation == 0 || v.Reported.Generation <= b.want.Generation {
			continue
		}
		return wrongPointer(fmt.Errorf("%s was reported with generation %d, the pointer says %d: %w",
			v.ID, v.Reported.Generation, b.want.Generation, ErrOlder))
	}
	return nil
}

// foreign says whether a volume is of another store, by its tag: generations of two stores cannot
// be compared, and it is not ours to serve.
func (b *boot) foreign(v Volume) bool {
	return v.Store != "" && b.want.Store != "" && v.Store != b.want.Store
}

// pointerIsWrong: it is not the volume that is.
func pointerIsWrong(err error) bool { return errors.Is(err, ErrOlder) || errors.Is(err, ErrUnsigned) }

// wrongPointer says what to do about a pointer that went back, or that nobody trusted has signed.
// The volume and the mount stay as they are.
func wrongPointer(err error) error {
	if errors.Is(err, ErrUnsigned) {
		return advice.Try(advice.Errorf("%w. No volume and no mount was touched for it", err),
			"find out who wrote the pointer, and with which key; "+
				"if it is right and the volume here is not: ebs-release-agent up --older makes another from the pointer's snapshot,"+
				" and with trusted-keys in agent.toml those keys count, not the volume's")
	}
	return advice.Try(advice.Errorf("%w. Nothing was changed", err),
		"look for a cache or a restored release.json behind the pointer's URL, or publish again;"+
			" to go back to what it names: ebs-release-agent up --older")
}

// choose picks the volume to take on, if there is one. An attached one is worth a look inside,
// whatever its tags say, and the pointer of its store: who signed that only a volume tells. One
// that is not attached cannot have been pushed to, so it is taken only when it was made from the
// wanted snapshot.
func (b *boot) choose(mine []Volume) {
	usable := slices.DeleteFunc(slices.Clone(mine), func(v Volume) bool {
		return b.removed[v.ID] || v.Leaving || !v.Attached && (b.foreign(v) || v.SnapshotID != b.want.SnapshotID)
	})
	if len(usable) == 0 {
		return
	}
	rank := func(v Volume) int {
		r := 0
		if v.SnapshotID == b.want.SnapshotID {
			r++
		}
		if v.Reported.Generation == b.want.Generation {
			r += 2
		}
		if v.Attached {
			r += 4
		}
		if !b.foreign(v) {
			r += 8
		}
		return r
	}
	best := slices.MaxFunc(usable, func(v, w Volume) int {
		return cmp.Or(cmp.Compare(rank(v), rank(w)), cmp.Compare(w.ID, v.ID))
	})
	b.log.Info("taking on a volume of an earlier boot", "volume", best.ID, "attached", best.Attached)
	b.volume, b.adopted = best, true
}

// removeVolume lets go of a volume and removes it, in a minute or less.
func (b *boot) removeVolume(ctx context.Context, v Volume) error {
	if b.prepared != nil && v.ID == b.volume.ID {
		err := b.prepared.Close(ctx)
		b.prepared = nil
		if err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := b.Disks.Unused(ctx, v); err != nil { // whatever EC2 says of its attachment
		return fmt.Errorf("remove %s: %w", v.ID, err)
	}
	if err := b.Volumes.Remove(ctx, b.me, v); err != nil {
		return err
	}
	b.removed[v.ID] = true
	return nil
}

// dispose removes a volume that is not wanted. The boot does not depend on it: one that cannot be
// removed is left.
func (b *boot) dispose(ctx context.Context, v Volume) {
	if v.Brought || v.Unlisted {
		b.log.Info("a volume that came with this instance, or that EC2 does not list, is left alone", "volume", v.ID)
		b.removed[v.ID] = true
		return
	}
	if err := b.removeVolume(ctx, v); err != nil {
		b.leaveBehind(ctx, v, err)
	}
}

// leaveBehind is what becomes of a volume that cannot be removed, or of which nobody knows what it
// holds.
func (b *boot) leaveBehind(ctx context.Context, v Volume, why error) {
	b.removed[v.ID] = true
	b.log.Warn("a volume that is not wanted is left behind: "+
		"it goes with a later start, with `ebs-release gc` when it is detached, or with the instance",
		"volume", v.ID, "error", why)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), marking)
	defer cancel()
	if b.Older { // else its generation would stop the next start, which is not told that the pointer is meant
		if err := b.Volumes.Report(ctx, v, Report{}); err != nil {
			b.log.Warn("the volume that is left behind goes on naming its generation", "volume", v.ID, "error", err)
		}
	}
	if err := b.Volumes.Leave(ctx, b.me, v); err != nil {
		b.log.Warn("cannot mark the volume that is left behind", "volume", v.ID, "error", err)
	}
}

// marking is how long the two calls that mark a volume may take.
const marking = 10 * time.Second

// forget takes the boot back to where no volume is chosen.
func (b *boot) forget(ctx context.Context) {
	if b.prepared != nil {
		if err := b.prepared.Close(ctx); err != nil {
			b.log.Warn("cannot let go of the mount", "volume", b.volume.ID, "error", err)
		}
	}
	if b.volume.ID != "" && !b.volume.Brought {
		b.had = append(b.had, b.volume)
	}
	b.volume, b.disk, b.prepared, b.asked = Volume{}, Disk{}, nil, false
	b.shielded, b.level, b.sound, b.serving, b.placed, b.adopted, b.told = false, false, false, false, false, false, nil
	b.heldGeneration, b.heldRelease, b.pending = 0, "", false
}
