package disks

import (
	"context"
	"fmt"
	"log/slog"

	"ebs-release/internal/boot"
	"ebs-release/internal/boot/source"
	"ebs-release/internal/boot/tree"
	"ebs-release/internal/catchup"
	"ebs-release/internal/follow"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
)

// Side is on which side of a rollout the instance of a volume is, by a document that the volume
// believes.
func Side(ctx context.Context, log *slog.Logger, point string, trusted []string, want boot.Wanted) (status.Rollout, error) {
	a, err := askChild(ctx, log, diskRequest{Do: doSide, Point: point, From: source.Source{Trusted: trusted}, Want: want})
	return a.Status.Rollout, err
}

// sideOn is what a document says of a rollout to the instance of a volume.
func sideOn(v *release.Volume, want boot.Wanted, trusted []string) (status.Rollout, error) {
	p, err := catchup.Believe(v, []byte(want.Document), trusted)
	if err == nil {
		err = v.CheckStore(p.Store)
	}
	if err != nil {
		return status.Rollout{}, fmt.Errorf("the pointer is not believed: %w", err)
	}
	return follow.Side(p, tree.InstanceOf(want.Who)), nil
}
