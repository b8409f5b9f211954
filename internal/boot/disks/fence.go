package disks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/exit"
	"ebs-release/internal/mount"
	"ebs-release/internal/release"
)

// Fence is what a volume says of the highest generation that was activated on it.
type Fence struct {
	Generation   int64 // 0: none
	Release      string
	ProgramsDone bool
	UID, GID     int   // who owns the tree
	Was          int64 // the generation before the fence was lowered; 0: it could not be read
}

// lowerLimit is how long a fence may take to be lowered: a push that holds the volume is waited
// for.
const lowerLimit = time.Minute

// ReadFence has a child read the fence of the volume at a point.
func ReadFence(ctx context.Context, log *slog.Logger, point string) (Fence, error) {
	return askFence(ctx, observeLimit, log, diskRequest{Do: doFence, Point: point})
}

// LowerFence has a child lower it to a generation, and read it then.
func LowerFence(ctx context.Context, log *slog.Logger, point string, to int64) (Fence, error) {
	return askFence(ctx, lowerLimit, log, diskRequest{Do: doFence, Point: point, LowerTo: to})
}

func askFence(ctx context.Context, limit time.Duration, log *slog.Logger, r diskRequest) (Fence, error) {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	a, err := askChild(limited, log, r)
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = advice.Try(fmt.Errorf("the volume does not answer: %w", err),
			"ebs-release-agent status (which volume it is), then aws ec2 describe-volume-status --volume-ids VOLUME")
	}
	return a.Fence, err
}

// fenceOf reads the fence, in the child; before that it lowers it to a generation, but for 0.
func fenceOf(ctx context.Context, point string, lowerTo int64) (f Fence, err error) {
	mounted, err := mount.Look(point)
	if err == nil && mounted == nil {
		err = exit.With(exit.Unchanged, advice.Try(fmt.Errorf("nothing is mounted at %s", point), "systemctl status ebs-release-agent"))
	}
	if err != nil {
		return f, err
	}
	v, err := release.Open(point)
	if err != nil {
		return f, err
	}
	defer func() { _ = v.Close() }()
	if lowerTo > 0 {
		if f.Was, err = v.Generation(); err != nil {
			f.Was = 0
		}
		if err := v.LowerFence(ctx, lowerTo); err != nil {
			return f, err
		}
	}
	if f.UID, f.GID, err = v.Owner(); err != nil {
		return f, err
	}
	if f.Generation, f.Release, err = v.Fence(); err != nil {
		return f, err
	}
	f.ProgramsDone, err = v.ProgramsDone()
	return f, err
}
