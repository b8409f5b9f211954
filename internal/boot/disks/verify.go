package disks

import (
	"context"
	"errors"
	"log/slog"

	"ebs-release/internal/advice"
	"ebs-release/internal/push/wire"
	"ebs-release/internal/receive"
	"ebs-release/internal/release"
)

// Verifying is a release to verify.
type Verifying struct {
	Release string // "": what the fence names, which `current` has to agree with
	Digest  string // "": any
}

func (w Verifying) all(ctx context.Context, point string) (wire.Verified, error) {
	v, err := release.Open(point)
	if err != nil {
		return wire.Verified{}, err
	}
	defer func() { _ = v.Close() }()
	generation, id := int64(0), w.Release
	if id == "" {
		if generation, id, err = v.Fence(); err == nil && id == "" {
			err = advice.Try(errors.New("no release is active on this volume"), "ebs-release converge, on the release server")
		}
		if err != nil {
			return wire.Verified{}, err
		}
	}
	return receive.Verify(ctx, v, id, w.Digest, generation)
}

// Verify has a child read every file of a release of the volume at a point.
func Verify(ctx context.Context, log *slog.Logger, point string, what Verifying) (wire.Verified, error) {
	a, err := askChild(ctx, log, diskRequest{Do: doVerify, Point: point, Verify: what})
	return a.Verified, err
}
