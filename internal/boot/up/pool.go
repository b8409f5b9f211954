package up

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"ebs-release/internal/instance"
	"ebs-release/internal/logging"
	"ebs-release/internal/status"

	smithytime "github.com/aws/smithy-go/time"
)

const (
	// restPoll is how often an instance in a warm pool looks whether it is taken into service.
	restPoll = time.Second
	// restRefresh is how often it brings its volume up to date meanwhile, so that little is to be
	// fetched on its way into service. It costs a call of EC2.
	restRefresh = 10 * time.Minute
	// restPatience is what systemd is asked for again and again, in time for many to be late.
	restPatience = 2 * time.Minute
	restAsk      = 30 * time.Second
)

// rest waits in the warm pool, for as long as that has the instance: days, perhaps. It ends with
// ctx, when the group takes the instance into service, and when the volume is to be brought up to
// date.
func (u Up) rest(ctx context.Context, now status.Status) error {
	cfg, err := instance.LoadConfig(ctx)
	if err != nil {
		return fmt.Errorf("read the AWS configuration: %w", err)
	}
	client := instance.NewClient(cfg)
	u.Log.Info("in the warm pool: nothing is served until the group takes this instance into service",
		"generation", now.Generation, "volume", now.VolumeID)
	var asked time.Time
	for end := time.Now().Add(restRefresh/2 + rand.N(restRefresh/2)); time.Now().Before(end); {
		if time.Since(asked) > restAsk {
			u.keepUnit(ctx, restPatience, "warmed: waits until the group takes this instance into service")
			asked = time.Now()
		}
		if err := smithytime.SleepWithContext(ctx, restPoll); err != nil {
			return err
		}
		state, err := instance.TargetState(ctx, client)
		if err != nil {
			u.Log.Debug("the metadata service does not say where this instance belongs", "error", err)
		} else if !instance.Warmed(state) {
			u.Log.Info("the group takes this instance into service", "state", state)
			break
		}
	}
	// The next boot has the deadline for itself, and systemd a little more, as at the unit's start.
	u.keepUnit(ctx, u.Deadline+restPatience, "booting")
	return nil
}

// stillWarmed asks once.
func (u Up) stillWarmed(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cfg, err := instance.LoadConfig(ctx)
	if err != nil {
		return false
	}
	warmed, err := instance.InWarmPool(ctx, instance.NewClient(cfg), u.Log)
	return err == nil && warmed
}

// keepUnit has systemd wait for READY=1 for so long from now on (sd_notify(3),
// EXTEND_TIMEOUT_USEC).
func (u Up) keepUnit(ctx context.Context, d time.Duration, says string) {
	if err := logging.MentionToSystemd(ctx, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d\nSTATUS=%s", d.Microseconds(), says)); err != nil {
		u.Log.Debug("cannot tell systemd", "error", err)
	}
}
