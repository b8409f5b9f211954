package disks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/mount"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
	"ebs-release/internal/words"
)

// observeLimit is how long a volume may take to say what it holds. A disk on EC2 that is well takes
// seconds at worst, for what comes from S3 first.
const observeLimit = 10 * time.Second

// Observe is a status with what the volume says now. A volume that does not answer has failed.
func Observe(ctx context.Context, log *slog.Logger, s status.Status) (status.Status, error) {
	look, cancel := context.WithTimeout(ctx, observeLimit)
	defer cancel()
	a, err := askChild(look, log, diskRequest{Do: doObserve, Point: s.MountPoint, Status: s})
	switch {
	case err == nil:
		return a.Status, nil
	case errors.Is(ctx.Err(), context.Canceled):
		return s, ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		err = advice.Try(fmt.Errorf("the volume does not answer: %w", err), "aws ec2 describe-volume-status --volume-ids %s", s.VolumeID)
	}
	s.State, s.Error = status.Failed, words.OneLine(err)
	return s, nil
}

func observeVolume(s *status.Status) error {
	mounted, err := mount.Look(s.MountPoint)
	if err != nil {
		return err
	}
	if mounted == nil {
		return advice.Try(fmt.Errorf("nothing is mounted at %s any more", s.MountPoint), "ebs-release-agent up")
	}
	if why := mounted.ReadOnly(); why != "" { // it is served, and readers see no difference
		s.Warning = advice.Text(fmt.Sprintf("nothing can be written to %s (%s): no other release can be pushed to it", s.MountPoint, why),
			"ebs-release-agent doctor")
	}
	if s.Generation == 0 {
		return nil // a volume of an older setup, that says nothing
	}
	v, err := release.Open(s.MountPoint)
	if err != nil {
		return err
	}
	defer func() { _ = v.Close() }()
	if s.Generation, err = v.Generation(); err != nil {
		return err
	}
	done, err := v.ProgramsDone()
	if s.Pending = s.Generation > 0 && (err != nil || !done); s.Pending && s.Warning == "" {
		s.Warning = advice.Text("a program of activate.d has not succeeded for this release: the application may still serve the one before, "+
			"or be out of service after drain.d", "ebs-release converge, on the release server")
	}
	s.Release, err = v.Current()
	return err
}
