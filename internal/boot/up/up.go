// Package up is what surrounds a boot: one at a time boots this machine (lock.go); it tells where
// the boot is and opens the gate (reporter.go: boot.Progress and boot.Gate), comes to an end
// whatever hangs, and waits in a warm pool between two boots (pool.go).
package up

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/boot"
	"ebs-release/internal/logging"
	"ebs-release/internal/status"
	"ebs-release/internal/words"
)

// Up boots this machine.
type Up struct {
	Dir      status.Dir
	Point    string        // the mount point
	Reach    status.Reach  // of the store
	Deadline time.Duration // of a boot
	Where    *logging.Where
	Log      *slog.Logger

	// Parts are those of one boot, but for the gate.
	Parts func() (boot.Parts, error)
	// Serves says whether the volume of a status is served now.
	Serves func(status.Status) bool
}

// Run returns when the release is served, and says what that came to.
func (u Up) Run(ctx context.Context) (status.Status, error) {
	if err := u.Dir.Make(); err != nil {
		return status.Status{}, err
	}
	lock, err := u.lock(ctx)
	if err != nil {
		return status.Status{}, err
	}
	defer func() { _ = lock.Close() }()

	for rested := false; ; rested = true {
		now, err := u.boot(ctx)
		switch {
		case err == nil:
			return now, nil
		case rested && !errors.Is(err, boot.ErrWarmed) && u.stillWarmed(ctx):
			u.Log.Warn("the release in the warm pool could not be brought up to date: it is tried again", "error", err)
		case !errors.Is(err, boot.ErrWarmed):
			return now, err
		}
		if err := u.rest(ctx, now); err != nil {
			return now, err
		}
	}
}

func (u Up) lock(ctx context.Context) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, u.Deadline)
	defer cancel()
	return Lock(ctx, u.Dir)
}

// boot is one boot, within the deadline.
func (u Up) boot(ctx context.Context) (status.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, u.Deadline)
	defer cancel()
	parts, err := u.Parts()
	if err != nil {
		return status.Status{}, err
	}
	r := newReporter(u)
	parts.Gate = r
	if err := r.begin(); err != nil {
		return status.Status{}, err
	}
	if err = u.untilItEnds(ctx, parts, r); errors.Is(err, errNoEnd) {
		if now, readErr := u.Dir.Read(); readErr == nil && now.State == status.Booting { // not by the reporter, which the boot may still use
			now.State, now.Finished, now.Error = status.Failed, time.Now().UTC(), words.OneLine(err)
			if writeErr := u.Dir.Write(now); writeErr != nil {
				u.Log.Warn("cannot tell how the boot ended", "error", writeErr)
			}
		}
		return status.Status{}, err
	}
	if finishErr := r.finish(err); err == nil {
		err = finishErr
	}
	return r.now, err
}

// errNoEnd: something in the boot waits on after its ctx has ended. No such wait is known; this is
// the last resort, which frees the lock.
var errNoEnd = errors.New("the boot does not come to an end")

// lateness is how much later than its deadline a boot may end on a busy machine.
const lateness = 10 * time.Second

// untilItEnds is boot.Run with a limit: when that has not returned some time after its deadline,
// this returns errNoEnd.
func (u Up) untilItEnds(ctx context.Context, parts boot.Parts, r *reporter) error {
	ended := make(chan error, 1)
	go func() {
		_, err := boot.Run(ctx, parts, r, u.Log)
		ended <- err
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	patience := lateness // a boot with a deadline has put things in order by then
	if errors.Is(ctx.Err(), context.Canceled) {
		patience += boot.CleanUp
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(patience):
		return advice.Try(fmt.Errorf("%s: %w: %w", u.Where.Get()[logging.FieldStage], errNoEnd, ctx.Err()),
			"dmesg, and where the process hangs: cat /proc/%d/task/*/stack", os.Getpid())
	}
}
