package boot_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"ebs-release/internal/boot"
)

// TestAStageThatWaitsForItsTurnGoesOn: the time of a stage begins anew while EC2 refuses calls for
// a request limit (row 16), and ends with the boot's; without that refusal it ends the stage.
func TestAStageThatWaitsForItsTurnGoesOn(t *testing.T) {
	for _, tc := range []struct {
		refuses, takes time.Duration // throttled for so long, then without an answer
		ready          bool
	}{{150 * time.Second, 0, true}, {time.Hour, 0, false}, {0, time.Hour, false}} {
		w := newWorld(7)
		create, began := w.volumes.create, time.Time{}
		w.volumes.create = func(ctx context.Context, want boot.Wanted) (boot.Volume, error) {
			if began.IsZero() {
				began = time.Now()
			}
			until := began.Add(tc.refuses)
			select {
			case <-time.After(time.Until(until) + tc.takes):
				return create(ctx, want)
			case <-ctx.Done():
			}
			if time.Now().Before(until) {
				return boot.Volume{}, fmt.Errorf("%w: %w", boot.ErrThrottled, ctx.Err())
			}
			return boot.Volume{}, ctx.Err()
		}
		_, took, err := w.boot(t)
		if ready := err == nil; ready != tc.ready {
			t.Errorf("refused for %v: ready %v after %v: %v", tc.refuses, ready, took, err)
		}
		if tc.takes > 0 && took > 70*time.Second || tc.refuses > 0 && !tc.ready && took < 3*time.Minute {
			t.Errorf("refused for %v: it ended after %v: %v", tc.refuses, took, err)
		}
	}
}
