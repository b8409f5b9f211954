package warm

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"ebs-release/internal/status"

	smithytime "github.com/aws/smithy-go/time"
)

// EBS is what loads the volume by itself, where that has an initialization rate.
type EBS interface {
	// VolumeID is the volume that is served; "": none, or it has no rate.
	VolumeID() string
	// Loading asks EC2; nil: EBS loads it only as it is read.
	Loading(ctx context.Context, volumeID string) (*status.Loading, error)
	// Keep keeps it, for people.
	Keep(l status.Loading) error
}

// askEvery is the pause between two calls of EC2: what it says is up to five minutes old, and a
// thousand members may ask, of 20 calls a second that an account has.
const askEvery = time.Minute

// Watch asks how far EBS is until it has loaded all of the volume, and of the next volume again. It
// ends with ctx. What EC2 does not say is logged once: a role may lack the right, and nothing is
// wrong then.
func Watch(ctx context.Context, ebs EBS, log *slog.Logger) {
	done, said := "", ""
	for smithytime.SleepWithContext(ctx, askEvery/2+rand.N(askEvery)) == nil {
		id := ebs.VolumeID()
		if id == "" || id == done {
			continue
		}
		l, err := ebs.Loading(ctx, id)
		if err == nil && l != nil {
			err = ebs.Keep(*l)
		}
		switch {
		case ctx.Err() != nil:
		case err != nil && said != err.Error():
			said = err.Error()
			log.Info("not known how far EBS has loaded the volume", "error", err)
		case err == nil && (l == nil || l.Percent >= 100):
			done = id
		}
	}
}
