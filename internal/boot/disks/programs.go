package disks

import (
	"context"
	"errors"
	"log/slog"

	"ebs-release/internal/activation"
	"ebs-release/internal/hook"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
	"ebs-release/internal/words"
)

// Running says which of the operator's programs run.
type Running struct {
	Programs activation.Programs // As and Inherit follow from the volume's owner
	Before   string              // activation.StageFolder, DrainFolder: of a release that is here; "": those that are pending
	To       activation.Target   // that release; its digest is the volume's word
}

// RunPrograms has a child run programs on the volume at a point, and says how they ended, with an
// error, too: without words where the child did not say it. A child whose caller is gone ends them.
func RunPrograms(ctx context.Context, log *slog.Logger, point string, what Running) (status.Programs, error) {
	a, err := askToEnd(ctx, log, diskRequest{Do: doPrograms, Point: point, Running: what})
	return a.Programs, err
}

func (r Running) on(ctx context.Context, point string) (ended status.Programs, err error) {
	ended.Schema = status.Schema
	v, err := OpenWritable(point)
	if err != nil {
		return ended, err
	}
	defer func() { _ = v.Close() }()
	uid, gid, err := v.Owner()
	if err != nil {
		return ended, err
	}
	if r.Programs.As, err = hook.Owner(uid, gid); err != nil {
		return ended, err
	}
	r.Programs.Inherit = hook.PlainEnvironment(r.Programs.As)
	if ended.Generation, err = v.Generation(); err != nil {
		return ended, err
	}
	if err := r.run(ctx, v); err != nil {
		ended.Error, ended.Refused = words.OneLine(err), errors.Is(err, activation.ErrRefused)
		return ended, err
	}
	return ended, nil
}

func (r Running) run(ctx context.Context, v *release.Volume) (err error) {
	if r.Before == "" {
		return activation.Pending(ctx, v, r.Programs)
	}
	if r.To.Digest, err = v.ManifestDigest(r.To.Release); err != nil {
		return err
	}
	if r.Before == activation.StageFolder {
		return activation.Stage(ctx, v, r.Programs, r.To)
	}
	return activation.Drain(ctx, v, r.Programs, r.To)
}
