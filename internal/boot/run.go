package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
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
	shielded bool // this run had EC2 delete the volume with the instance
	sound    bool // the volume holds what is wanted
	serving  bool // it is at the mount point
	placed   bool // by this run
	hostKey  *string
	told     bool // this run reported the volume as ready

	heldGeneration int64 // what the volume says that it holds
	heldRelease    string

	adopted  bool            // the volume is from an earlier run
	had      []Volume        // volumes that this run had in hand and let go of: EC2 may not list them yet
	removed  map[string]bool // volumes removed by this run: EC2 may go on listing them
	badNames []string        // device names under which no disk came
	lost     int             // how many volumes EC2 made for this run and did not keep
	noSnap   time.Time       // since when the snapshot of the pointer cannot be used
}

// Error is a boot that failed: one line with the stage, the cause and the next step.
type Error struct {
	Stage string
	Err   error
	Hint  string
	Late  bool // the time of the whole boot was up
}

func (e *Error) Error() string {
	text := fmt.Sprintf("%s: %v", e.Stage, e.Err)
	if e.Hint != "" && !strings.Contains(text, "Try: ") {
		text += ". Try: " + e.Hint
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// back is the way back to an earlier stage. It is no failure.
type back struct {
	to  string
	why string
}

func (b *back) Error() string { return "back to " + b.to + ": " + b.why }

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

// chain runs stages one after the other. What facts tells, one chain of a line at most changes: only that one has a second stage.
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
		ctx, cancel := context.WithTimeout(ctx, s.budget)
		defer cancel()
		err = s.do(ctx)
		if err == nil && s.done != nil && !s.done() {
			err = errors.New("it ended well, and yet it is not done")
		}
	}
	b.telling.Lock()
	defer b.telling.Unlock()
	var back *back
	if err == nil || errors.As(err, &back) {
		b.progress.Ended(s.name, time.Since(started), skip, nil)
		return err
	}
	err = &Error{Stage: s.name, Err: err, Hint: s.hint}
	b.progress.Ended(s.name, time.Since(started), skip, err)
	return err
}

// recover turns a failure into a way back where there is one: a volume that is of no use is replaced by another.
func (b *boot) recover(ctx context.Context, err error) error {
	var failed *Error
	if !errors.As(err, &failed) || ctx.Err() != nil || b.volume.ID == "" || b.serving {
		return err
	}
	why := ""
	switch failed.Stage {
	case StageAttach, StageFind, StageCheck, StageMount, StageVerify:
		switch {
		case b.adopted:
			// Whatever an earlier boot left: this one makes its own before it gives up.
			why = "the volume of an earlier boot is of no use"
		case errors.Is(err, ErrVolume):
			if b.lost++; b.lost == maxLost {
				failed.Err = fmt.Errorf("%d volumes, and EC2 kept none; the last: %w", b.lost, failed.Err)
				return err
			}
			why = "EC2 did not keep the volume"
		case failed.Stage == StageFind && errors.Is(err, context.DeadlineExceeded) && len(b.badNames) < maxNames:
			// Stuck in `attaching` (CSI #1801, #2833): another volume, another name.
			why = "no disk came of the attachment"
			b.badNames = append(b.badNames, b.volume.Device)
		}
	}
	if why == "" {
		return err
	}
	b.log.Warn("replacing the volume", "volume", b.volume.ID, "why", why, "error", err)
	if removeErr := b.removeVolume(ctx, b.volume); removeErr != nil {
		return errors.Join(err, removeErr)
	}
	b.forget()
	return &back{to: StageAdopt, why: why}
}

const (
	maxNames = 2 // so many device names may turn out to be stuck, before the boot gives up
	maxLost  = 3 // so many volumes may fail, vanish or be deleted: the third time it is no accident (a KMS key that may not be used, somebody's clean-up)
)

// removeVolume lets go of a volume and removes it, in a minute or less.
func (b *boot) removeVolume(ctx context.Context, v Volume) error {
	if b.prepared != nil && v.ID == b.volume.ID {
		if err := b.prepared.Close(); err != nil {
			return err
		}
		b.prepared = nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := b.Volumes.Remove(ctx, b.me, v); err != nil {
		return err
	}
	b.removed[v.ID] = true
	return nil
}

// forget takes the boot back to where no volume is chosen.
func (b *boot) forget() {
	if b.prepared != nil {
		if err := b.prepared.Close(); err != nil {
			b.log.Warn("cannot let go of the mount", "volume", b.volume.ID, "error", err)
		}
	}
	if b.volume.ID != "" {
		b.had = append(b.had, b.volume)
	}
	b.volume, b.disk, b.prepared = Volume{}, Disk{}, nil
	b.shielded, b.sound, b.serving, b.placed, b.adopted, b.told = false, false, false, false, false, false
	b.heldGeneration, b.heldRelease = 0, ""
}

// A failed boot has cleanUp to put things in order, and one with a deadline keeps an eighth of its time for that: it ends within its deadline.
const (
	cleanUp      = 30 * time.Second
	cleanUpShare = 8
)

// workingTime is ctx without the time for putting things in order.
func workingTime(ctx context.Context) (work context.Context, cancel context.CancelFunc, tidy time.Duration) {
	end, ok := ctx.Deadline()
	if !ok {
		work, cancel = context.WithCancel(ctx)
		return work, cancel, cleanUp
	}
	tidy = max(min(cleanUp, time.Until(end)/cleanUpShare), 0)
	work, cancel = context.WithDeadline(ctx, end.Add(-tidy))
	return work, cancel, tidy
}

// leave puts things in order after a failure. A volume of this run stays only when the next run can take it on and EC2 deletes it with the
// instance if there is none: attached, protected, and with nothing wrong in it.
func (b *boot) leave(ctx context.Context, tidy time.Duration, failure error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidy)
	defer cancel()
	if b.placed {
		if err := b.Mounts.Unmount(ctx); err != nil {
			b.log.Warn("cannot take the mount away again", "volume", b.volume.ID, "error", err)
		}
		b.serving = false
	}
	if b.prepared != nil {
		if err := b.prepared.Close(); err != nil {
			b.log.Warn("cannot let go of the mount", "volume", b.volume.ID, "error", err)
		}
		b.prepared = nil
	}
	if b.volume.ID == "" {
		return
	}
	if b.told {
		r := b.toReport()
		r.Ready = false
		if err := b.Volumes.Report(ctx, b.volume, r); err != nil {
			b.log.Warn("the volume's tags go on saying ready", "volume", b.volume.ID, "error", err)
		}
	}
	if b.serving || b.volume.Attached && b.protected() && !spoiled(failure) {
		b.log.Info("the volume is left to the next start", "volume", b.volume.ID)
		return
	}
	if err := b.removeVolume(ctx, b.volume); err != nil {
		b.log.Warn("the volume is left behind; the next start takes it on, or `ebs-release gc` removes it", "volume", b.volume.ID, "error", err)
		return
	}
	b.log.Info("the volume of this boot is removed", "volume", b.volume.ID)
}

// spoiled: the failure is about what is on the volume, so that another try with it would fail the same way.
func spoiled(failure error) bool {
	var failed *Error
	return errors.As(failure, &failed) && slices.Contains([]string{StageCheck, StageMount, StageVerify}, failed.Stage) &&
		!errors.Is(failure, context.Canceled) && !errors.Is(failure, context.DeadlineExceeded)
}

func (b *boot) facts() Facts {
	f := Facts{
		InstanceID: b.me.InstanceID, Generation: b.want.Generation, Release: b.want.Release, SnapshotID: b.want.SnapshotID,
		VolumeID: b.volume.ID, Device: b.disk.Path,
	}
	if b.want.Generation == 0 {
		f.Generation, f.Release = b.heldGeneration, b.heldRelease
	}
	return f
}
