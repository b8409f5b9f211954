package boot

import (
	"context"
	"errors"
	"fmt"
	"time"
)

func (b *boot) identified() bool { return b.me.InstanceID != "" }

func (b *boot) identify(ctx context.Context) (err error) {
	b.me, err = b.Instance.Identify(ctx)
	return err
}

func (b *boot) resolved() bool { return b.pointer != nil }

func (b *boot) resolve(ctx context.Context) error {
	p, err := b.Pointers.Fetch(ctx)
	if err == nil {
		b.pointer = &p
	}
	return err
}

func (b *boot) haveVolume() bool { return b.volume.ID != "" }

func (b *boot) create(ctx context.Context) error {
	v, err := b.Volumes.Create(ctx, b.me, b.want)
	b.volume = v // with an error too: it has to be removed
	switch {
	case err == nil:
		// Attached already: it is the volume of a lost run, and what it holds has to be seen.
		b.adopted, b.noSnap = v.Attached, time.Time{}
		b.made[v.ID] = !v.Attached
		return nil
	case errors.Is(err, ErrSnapshot):
		return b.snapshotMissing(ctx, err)
	}
	return err
}

// The pointer names a completed snapshot, so one that is not there was replaced a moment ago, or
// made a moment ago and EC2 does not tell everybody yet: the pointer is read again, for a while.
const (
	snapshotPatience = 30 * time.Second
	snapshotPause    = 2 * time.Second
)

func (b *boot) snapshotMissing(ctx context.Context, err error) error {
	if b.noSnap.IsZero() {
		b.noSnap = time.Now()
	}
	if time.Since(b.noSnap) > snapshotPatience {
		return err
	}
	select {
	case <-ctx.Done():
		return err
	case <-time.After(snapshotPause):
	}
	b.pointer = nil
	return &back{to: StageResolve, why: err.Error()}
}

func (b *boot) attached() bool { return b.volume.Attached }

func (b *boot) attach(ctx context.Context) error {
	v, err := b.Volumes.Attach(ctx, b.me, b.volume, b.badNames)
	if err == nil { // only what it changes: noneNewer reads the rest meanwhile
		b.volume.Attached, b.volume.Device, b.volume.Protected = v.Attached, v.Device, v.Protected
	}
	return err
}

func (b *boot) protected() bool { return b.volume.Protected || b.shielded }

func (b *boot) protect(ctx context.Context) error {
	err := b.Volumes.Protect(ctx, b.me, b.volume)
	b.shielded = err == nil // not in b.volume: find reads that meanwhile
	return err
}

func (b *boot) haveDisk() bool { return b.disk.Path != "" }

func (b *boot) find(ctx context.Context) (err error) {
	b.disk, err = b.Disks.Find(ctx, b.volume)
	return err
}

func (b *boot) checked() bool { return b.serving || b.disk.Kind != "" }

func (b *boot) check(ctx context.Context) error {
	d, err := b.Disks.Check(ctx, b.disk)
	if err == nil {
		b.disk = d
	}
	return err
}

func (b *boot) haveMount() bool { return b.serving || b.prepared != nil }

func (b *boot) mount(ctx context.Context) error {
	p, err := b.Mounts.Prepare(ctx, b.volume, b.disk)
	if err == nil {
		b.prepared = p
	}
	return err
}

func (b *boot) caughtUp() bool { return b.level || b.sound }

func (b *boot) catchUp(ctx context.Context) error {
	err := b.prepared.CatchUp(ctx, b.want)
	b.level = err == nil
	return err
}

func (b *boot) verified() bool { return b.sound }

func (b *boot) verify(ctx context.Context) error {
	if err := b.holds(ctx, b.volume, b.prepared); err != nil {
		return err
	}
	b.sound = true
	done := false
	b.heldGeneration, b.heldRelease, done = b.prepared.Holding(ctx)
	b.pending = !done
	return nil
}

// holds is nil when the volume has what is wanted. With a plain snapshot id for a pointer there is
// nothing to verify against but that; whether the volume takes such a pointer at all, it says
// first.
func (b *boot) holds(ctx context.Context, v Volume, tree Tree) error {
	if err := tree.Check(ctx, b.want); err != nil {
		return err
	}
	if b.want.Generation == 0 && v.SnapshotID != b.want.SnapshotID {
		return fmt.Errorf("%w: %s was made from %s, and the pointer says %s", ErrMismatch, v.ID, v.SnapshotID, b.want.SnapshotID)
	}
	return nil
}

func (b *boot) mayServe(ctx context.Context) error {
	warmed, err := b.Instance.Warmed(ctx)
	if err == nil && warmed {
		return ErrWarmed
	}
	return err
}

// rest lets go of the mount. Whoever still uses one that was served before keeps it: nothing is
// sent to this instance, and the next boot looks at it.
func (b *boot) rest(ctx context.Context) error {
	if b.serving {
		if err := b.Mounts.Unmount(ctx); err != nil {
			b.log.Warn("the release of the time before stays mounted in the warm pool", "volume", b.volume.ID, "error", err)
		}
		return ErrWarmed
	}
	if err := b.prepared.Close(ctx); err != nil {
		return &Error{Stage: StageMayServe, Err: err, hint: "look into the kernel's log (dmesg)"}
	}
	b.prepared = nil
	return ErrWarmed
}

// toReport is what this member has to tell.
func (b *boot) toReport() Report {
	f := b.facts()
	r := Report{Ready: true, Pending: f.Pending, Generation: f.Generation, Release: f.Release}
	if b.hostKey != nil {
		r.HostKey = *b.hostKey
	}
	if !b.volume.Brought && b.above > r.Generation {
		r.Above = b.above
	}
	return r
}

func (b *boot) reported() bool { return b.hostKey != nil && b.volume.Reported == b.toReport() }

func (b *boot) report(ctx context.Context) error {
	key, err := b.Instance.HostKey(ctx)
	if err != nil {
		// Without it the publisher cannot push to this member; it serves the release all the same.
		b.log.Warn("no ssh host key to report: the publisher will not be able to push to this member", "error", err)
	}
	b.hostKey = &key
	if b.reported() {
		return nil // an earlier run did
	}
	r := b.toReport()
	b.told = &r // perhaps, if the answer is lost
	if err := b.Volumes.Report(ctx, b.volume, r); err != nil {
		return err
	}
	b.volume.Reported = r
	return nil
}

func (b *boot) reread(ctx context.Context) error {
	p, err := b.Pointers.Fetch(ctx)
	if err != nil {
		return err
	}
	now, err := b.wanted(p)
	if err != nil {
		return err
	}
	if now.sameTarget(b.want) {
		return nil
	}
	if now.Generation < b.want.Generation && !b.Older {
		return wrongPointer(fmt.Errorf("generation %d was read first, now the pointer says %d: %w", b.want.Generation, now.Generation, ErrOlder))
	}
	why := fmt.Sprintf("the pointer moved from generation %d (%s) to %d (%s) meanwhile",
		b.want.Generation, b.want.SnapshotID, now.Generation, now.SnapshotID)
	if b.prepared != nil && now.Document != "" && now.Store == b.want.Store && now.Generation >= b.want.Generation {
		b.pointer, b.want = &p, now
		b.level, b.sound = false, false
		return &back{to: StageCatchUp, why: why}
	}
	b.forget(ctx)
	b.pointer = nil
	return &back{to: StageResolve, why: why}
}

func (b *boot) wanted(p Pointer) (Wanted, error) {
	if p.For != nil {
		p = p.For(b.me)
	}
	id, err := p.Snapshot(b.me.Region)
	return Wanted{
		Store: p.Store, Generation: p.Generation, Release: p.Release, Digest: p.Digest, SnapshotID: id,
		Document: p.Document, Behind: p.Behind, Who: b.me,
	}, err
}

func (b *boot) ready(ctx context.Context) error {
	if !b.serving {
		if err := b.prepared.Place(ctx); err != nil {
			return err
		}
		b.serving, b.placed = true, true
		if err := b.prepared.Close(ctx); err != nil {
			return err
		}
		b.prepared = nil
	}
	if err := b.Mounts.Visible(ctx, b.volume, b.disk); err != nil {
		return err
	}
	return b.Gate.Open(ctx, b.facts())
}
