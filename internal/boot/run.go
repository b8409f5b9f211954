package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// boot is what one run knows so far. The stages of one line write different fields.
type boot struct {
	Parts
	progress Progress
	log      *slog.Logger
	telling  sync.Mutex // one call to progress at a time

	me       Identity
	pointer  *Pointer
	want     Wanted
	volume   Volume
	disk     Disk
	prepared Prepared
	asked    bool // EC2 was asked for a snapshot of a higher generation, for this volume
	shielded bool // this run had EC2 delete the volume with the instance
	level    bool // the volume was brought to what is wanted, as far as the pointer knows a way
	sound    bool // the volume holds what is wanted
	serving  bool // it is at the mount point
	placed   bool // by this run
	pending  bool // it was served before, and the programs of its activation have not succeeded, or it was drained
	hostKey  *string
	told     *Report // what this run reported of the volume

	heldGeneration int64 // what the volume says that it holds
	heldRelease    string

	adopted  bool            // the volume is from an earlier run
	made     map[string]bool // volumes that this run made
	had      []Volume        // volumes that this run had in hand and let go of: EC2 may not list them yet
	proven   []Volume        // volumes of which the disk says that an agent made them, and has served from them
	removed  map[string]bool // volumes that this run removed, left behind or left alone: EC2 may go on listing them
	unsure   bool            // a disk did not say what it is
	above    int64           // up to this generation a volume that EC2 brought has served
	silent   int             // how many disks of this run did not answer
	badNames []string        // device names under which no disk came
	lost     int             // how many volumes EC2 made for this run and did not keep
	gone     bool            // a pack was gone, and the pointer was read again for it
	noSnap   time.Time       // since when the snapshot of the pointer cannot be used
}

func (b *boot) run(ctx context.Context) error {
	lines := b.stages()
	for at := 0; at < len(lines); {
		err := b.line(ctx, lines[at])
		if err != nil {
			err = b.recover(ctx, err)
		}
		var back *back
		switch {
		case errors.As(err, &back):
			b.log.Info("going back", "to", back.to, "why", back.why)
			at = slices.IndexFunc(lines, func(l line) bool { return l.has(back.to) })
		case err != nil:
			return err
		default:
			at++
		}
	}
	return nil
}

func (l line) has(name string) bool {
	return slices.ContainsFunc(l, func(c chain) bool {
		return slices.ContainsFunc(c, func(s stage) bool { return s.name == name })
	})
}

// line runs chains side by side. The first failure ends the others.
func (b *boot) line(ctx context.Context, chains line) error {
	for _, c := range chains {
		b.progress.Started(c[0].name, b.facts())
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, c := range chains {
		group.Go(func() error { return b.chain(ctx, c) })
	}
	return group.Wait()
}

// chain runs stages one after the other. What facts tells, one chain of a line at most changes:
// only that one has a second stage.
func (b *boot) chain(ctx context.Context, stages chain) error {
	for i, s := range stages {
		if i > 0 {
			b.telling.Lock()
			b.progress.Started(s.name, b.facts())
			b.telling.Unlock()
		}
		if err := b.stage(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (b *boot) stage(ctx context.Context, s stage) error {
	started := time.Now()
	skip := s.done != nil && s.done()
	var err error
	if !skip {
		err = b.within(ctx, s)
		if err == nil && s.done != nil && !s.done() {
			err = errors.New("it ended well, and yet it is not done")
		}
	}
	b.telling.Lock()
	defer b.telling.Unlock()
	var back *back
	if err == nil || errors.As(err, &back) || errors.Is(err, ErrWarmed) {
		b.progress.Ended(s.name, time.Since(started), skip, nil)
		return err
	}
	err = &Error{Stage: s.name, Err: err, hint: s.hint}
	b.progress.Ended(s.name, time.Since(started), skip, err)
	return err
}

// within does a stage in the time that it may take. Where many machines boot at once, EC2 makes
// them wait for their turn (docs/failures.md, row 16): that is not the stage's fault, and only the
// whole boot has an end then.
func (b *boot) within(ctx context.Context, s stage) error {
	if s.budget == 0 {
		return s.do(ctx)
	}
	for {
		own, cancel := context.WithTimeout(ctx, s.budget)
		err := s.do(own)
		cancel()
		switch {
		case err == nil, ctx.Err() != nil, !errors.Is(err, context.DeadlineExceeded):
			return err
		case !errors.Is(err, ErrThrottled):
			return fmt.Errorf("not done in %s: %w", s.budget, err)
		}
		b.log.Info("EC2 takes no more calls of this account at the moment: going on", "stage", s.name, "error", err)
	}
}

func (b *boot) facts() Facts {
	f := Facts{
		InstanceID: b.me.InstanceID, Generation: b.want.Generation, Release: b.want.Release, SnapshotID: b.want.SnapshotID,
		VolumeID: b.volume.ID, Device: b.disk.Path, Pending: b.pending, Brought: b.volume.Brought,
	}
	if b.want.Generation == 0 {
		f.Generation, f.Release = b.heldGeneration, b.heldRelease
	}
	return f
}
