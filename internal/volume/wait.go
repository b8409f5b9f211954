package volume

import (
	"context"
	"fmt"
	"slices"
	"time"

	"ebs-release/internal/advice"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// attachLooks is how often a volume that is being made is looked at by attaching it: one that is
// accepted has saved a look. After that DescribeVolumes is asked first. It tells `creating` from
// `error`, and an account has four times as many of those a second.
const attachLooks = 4

// looks is how a volume that is not available yet is waited for. Each look is a call of EC2, and a
// boot should need six calls: five, and one look that is refused. So the pause before the second
// look is long enough for most volumes. A boot that needs a third look has more calls anyway: from
// there on the pauses are short.
type looks struct {
	volumes   *Volumes
	since     time.Time     // EC2 may have forgotten it for a while from then on
	delay     time.Duration // before the first look; 0: it may be available
	pause     time.Duration // before the next one
	poll      time.Duration // before the one after that
	attaching int           // how many looks by attaching are left
	seen      bool          // DescribeVolumes knew it
}

func (v *Volumes) looksAt(vol Volume) looks {
	l := looks{volumes: v, since: time.Now(), poll: v.timing.Poll}
	if vol.State == types.VolumeStateCreating {
		l.attaching = attachLooks
	}
	if vol.isNew() {
		// EC2 takes about 0.3 s to answer a create; for one that answers in milliseconds the volume
		// is not given a second.
		quick := max(5*vol.answered.Sub(vol.asked), 10*time.Millisecond)
		l.delay, l.poll, l.since = min(v.timing.FirstLook, quick), min(l.poll, quick), vol.answered
	}
	l.pause = 2 * l.poll
	if vol.isNew() && v.Crowded() {
		l.delay = max(l.delay, v.timing.Sure)
	}
	return l
}

// first pauses before the first look.
func (l *looks) first(ctx context.Context) error {
	if l.delay == 0 {
		return ctx.Err()
	}
	return pause(ctx, l.delay)
}

// again pauses after a look by attaching that was refused, until the next one is worth it. The
// volume that it returns may be attached: an earlier run did.
func (l *looks) again(ctx context.Context, vol Volume, owner Owner) (Volume, error) {
	if err := pause(ctx, l.pause); err != nil {
		return vol, err
	}
	l.next()
	if l.attaching--; l.attaching > 0 && !l.volumes.Crowded() {
		return vol, nil
	}
	return l.available(ctx, vol, owner)
}

// available asks until EC2 says that the volume can be attached, or is attached to its owner. One
// that never will be is an ErrFailed. At first EC2 may not know it.
func (l *looks) available(ctx context.Context, made Volume, owner Owner) (Volume, error) {
	now := made
	for {
		next, err := l.volumes.Describe(ctx, made.ID)
		switch {
		case err == nil:
			now, l.seen = next, true
		case IsNotFound(err) && time.Since(l.since) < l.volumes.timing.Vanished:
		case IsNotFound(err):
			return made, needsKey(made, fmt.Errorf("wait until %s is available: %w: EC2 made it, and does not know it any more", made.ID, errGone))
		default:
			return now, fmt.Errorf("wait until %s is available: %w", made.ID, err)
		}
		switch to := now.Attachment.InstanceID; {
		case now.State == types.VolumeStateAvailable, to != "" && to == owner.InstanceID:
			return now, nil
		case to != "":
			return now, fmt.Errorf("wait until %s is available: %w: it is attached to %s", made.ID, ErrFailed, to)
		case now.State == types.VolumeStateError:
			return now, needsKey(made, fmt.Errorf("wait until %s is available: %w: EC2 says state `error`", made.ID, ErrFailed))
		case isGoing(now.State):
			return now, fmt.Errorf("wait until %s is available: %w: EC2 says state `%s`", made.ID, errGone, now.State)
		}
		if err := pause(ctx, l.pause); err != nil {
			return now, fmt.Errorf("wait until %s is available: %w, EC2 still says `%s`", made.ID, err, now.State)
		}
		l.next()
	}
}

// next is for the pause after the one that is over.
func (l *looks) next() {
	l.pause, l.poll = l.poll, min(l.poll*3/2, l.volumes.timing.SlowPoll)
}

// errGone: EC2 made the volume, and it does not exist any more.
var errGone = fmt.Errorf("%w: it is gone", ErrFailed)

func (v Volume) isNew() bool { return !v.answered.IsZero() }

func isGoing(state types.VolumeState) bool {
	return slices.Contains([]types.VolumeState{types.VolumeStateDeleting, types.VolumeStateDeleted}, state)
}

// needsKey names the KMS key: an encrypted volume whose key may not be used is accepted, and then
// vanishes (docs/failures.md, row 3).
func needsKey(made Volume, err error) error {
	if !made.Encrypted {
		return err
	}
	return advice.Try(fmt.Errorf("%w. It is encrypted", err), "allow this instance's role kms:CreateGrant, kms:Decrypt, kms:DescribeKey, "+
		"kms:GenerateDataKeyWithoutPlaintext and kms:ReEncrypt* on the key %s", made.KMSKeyID)
}
