package boot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ebs-release/internal/advice"
)

// Error is a boot that failed: one line with the stage, the cause and the next step.
type Error struct {
	Stage string
	Err   error
	Late  bool // the time of the whole boot was up

	hint string // what to do next, when Err does not say
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Stage, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// back is the way back to an earlier stage. It is no failure.
type back struct {
	to  string
	why string
}

func (b *back) Error() string { return "back to " + b.to + ": " + b.why }

// recover turns a failure of a volume into a way back to adopt, where another volume may do better,
// and a pack that is gone into one back to resolve, where the pointer may say better. Any other
// failure it returns.
func (b *boot) recover(ctx context.Context, err error) error {
	var failed *Error
	if !errors.As(err, &failed) || ctx.Err() != nil || b.volume.ID == "" || b.serving {
		return err
	}
	if b.volume.Brought && (!errors.Is(err, ErrGone) || b.gone) {
		if way := b.notBrought(ctx, failed); way != nil {
			return way
		}
		return err
	}
	why := ""
	switch failed.Stage {
	case StageAttach, StageFind, StageCheck, StageMount, StageCatchUp, StageVerify:
		movedOn := b.volume.SnapshotID != b.want.SnapshotID // since a volume of this run was made
		switch {
		case errors.Is(err, ErrUnsigned) && !b.Older, b.adopted && errors.Is(err, ErrOlder) && !b.Older:
			failed.Err = wrongPointer(failed.Err)
			return err
		case errors.Is(err, ErrGone) && !b.gone:
			b.gone, b.pointer = true, nil
			return &back{to: StageResolve, why: failed.Err.Error()}
		case b.adopted && b.unseenAndNewer(failed.Err) != nil:
			failed.Err = advice.Errorf("%w (%w)", b.unseenAndNewer(failed.Err), failed.Err)
			return err
		case failed.Stage == StageCatchUp && (errors.Is(err, ErrStore) || errors.Is(err, ErrGone)) && b.adopted && !b.want.Behind:
			why = "one from the pointer's snapshot needs no pack"
		case failed.Stage == StageCatchUp && !ofTheVolume(failed):
			return err // the store may answer the next start
		case failed.Stage == StageCatchUp && b.made[b.volume.ID] && !movedOn && !silent(failed):
			return err // one from the same snapshot would fail the same way
		case b.adopted:
			// Whatever an earlier boot left: this one makes its own before it gives up.
			why = "the volume of an earlier boot is of no use"
		case errors.Is(err, ErrVolume):
			if b.lost++; b.lost == maxLost {
				failed.Err = fmt.Errorf("%d volumes, and EC2 kept none; the last: %w", b.lost, failed.Err)
				return err
			}
			why = "EC2 did not keep the volume"
		case movedOn && (failed.Stage == StageCatchUp || failed.Stage == StageVerify):
			why = "the pointer names another snapshot meanwhile"
		case failed.Stage == StageFind && errors.Is(err, context.DeadlineExceeded) && len(b.badNames) < maxNames:
			// Stuck in `attaching` (docs/failures.md, row 6): another volume, another name.
			why = "no disk came of the attachment"
			b.badNames = append(b.badNames, b.volume.Device)
		case silent(failed) && b.silent < maxSilent:
			b.silent++
			why = "its disk does not answer"
		}
	}
	if why == "" {
		return err
	}
	b.log.Warn("replacing the volume", "volume", b.volume.ID, "why", why, "error", err)
	if unknown(failed) {
		b.leaveBehind(ctx, b.volume, failed.Err)
	} else {
		b.dispose(ctx, b.volume)
	}
	b.forget(ctx)
	return &back{to: StageAdopt, why: why}
}

// unseenAndNewer is an error when the volume in hand was reported with a higher generation than the
// pointer names, and could not be read to check that. Then the pointer may be the wrong one, and
// the volume is kept.
func (b *boot) unseenAndNewer(failure error) error {
	if b.sound || errors.Is(failure, ErrMismatch) {
		return nil
	}
	return b.newerByTags([]Volume{b.volume}, "")
}

// silent: the disk did not answer within the time of a stage. The kernel may hold it for as long as
// it likes.
func silent(failed *Error) bool {
	return slices.Contains([]string{StageCheck, StageMount, StageCatchUp, StageVerify}, failed.Stage) &&
		(errors.Is(failed.Err, context.DeadlineExceeded) || errors.Is(failed.Err, ErrDisk))
}

// unknown: the failure says nothing of what is on the volume.
func unknown(failed *Error) bool {
	return silent(failed) || failed.Stage == StageVerify && !errors.Is(failed.Err, ErrMismatch) && !pointerIsWrong(failed.Err)
}

// ofTheVolume: the failure to catch up is one of this volume. Else it may be the store that does
// not answer, and no volume does better.
func ofTheVolume(failed *Error) bool {
	return silent(failed) || errors.Is(failed.Err, ErrMismatch) || pointerIsWrong(failed.Err)
}

const (
	maxSilent = 1 // this many disks may not answer, before the boot gives up
	maxNames  = 2 // this many device names may turn out to be stuck, before the boot gives up

	// This many volumes may fail, vanish or be deleted: the third time it is no accident (a KMS key
	// that may not be used, somebody's clean-up).
	maxLost = 3
)

// A failed boot has CleanUp to put things in order, and one with a deadline keeps an eighth of its
// time for that: it ends within its deadline.
const (
	CleanUp      = 30 * time.Second
	cleanUpShare = 8
)

// workingTime is ctx without the time for putting things in order.
func workingTime(ctx context.Context) (work context.Context, cancel context.CancelFunc, tidy time.Duration) {
	end, ok := ctx.Deadline()
	if !ok {
		work, cancel = context.WithCancel(ctx)
		return work, cancel, CleanUp
	}
	tidy = max(min(CleanUp, time.Until(end)/cleanUpShare), 0)
	work, cancel = context.WithDeadline(ctx, end.Add(-tidy))
	return work, cancel, tidy
}

// cleanUp comes after a failed boot. A volume of this run stays only when the next run can
// take it on and EC2 deletes it with the instance if there is none: attached, protected, and with
// nothing wrong in it.
func (b *boot) cleanUp(ctx context.Context, tidy time.Duration, failure error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidy)
	defer cancel()
	if b.placed {
		if err := b.Mounts.Unmount(ctx); err != nil {
			b.log.Warn("cannot take the mount away again", "volume", b.volume.ID, "error", err)
		}
		b.serving = false
	}
	if b.prepared != nil {
		if err := b.prepared.Close(ctx); err != nil {
			b.log.Warn("cannot let go of the mount", "volume", b.volume.ID, "error", err)
		}
		b.prepared = nil
	}
	if b.volume.ID == "" {
		return
	}
	if b.told != nil {
		r := *b.told // not what was wanted since: that may be a pointer that was refused
		r.Ready = false
		if err := b.Volumes.Report(ctx, b.volume, r); err != nil {
			b.log.Warn("the volume's tags go on saying ready", "volume", b.volume.ID, "error", err)
		}
	}
	// It is the only one to hold what it holds, or as good as any.
	kept := b.volume.Brought || b.adopted && (pointerIsWrong(failure) || b.unseenAndNewer(failure) != nil || blameless(failure))
	if b.serving || kept || b.volume.Attached && b.protected() && !spoiled(failure) {
		b.log.Info("the volume is left to the next start", "volume", b.volume.ID)
		return
	}
	if err := b.removeVolume(ctx, b.volume); err != nil {
		b.log.Warn("the volume is left behind; the next start takes it on, or `ebs-release gc` removes it", "volume", b.volume.ID, "error", err)
		return
	}
	b.log.Info("the volume of this boot is removed", "volume", b.volume.ID)
}

// spoiled: the failure is about what is on the volume, so that another try with it would fail the
// same way.
func spoiled(failure error) bool {
	var failed *Error
	return errors.As(failure, &failed) && slices.Contains([]string{StageCheck, StageMount, StageCatchUp, StageVerify}, failed.Stage) &&
		!errors.Is(failure, context.Canceled) && !errors.Is(failure, context.DeadlineExceeded) &&
		!errors.Is(failure, ErrUnsigned) && !blameless(failure)
}

// blameless: to catch up failed, and not for what the volume is.
func blameless(failure error) bool {
	var failed *Error
	return errors.As(failure, &failed) && failed.Stage == StageCatchUp && !ofTheVolume(failed)
}
