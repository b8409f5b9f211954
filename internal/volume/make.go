package volume

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Request is a volume to make.
type Request struct {
	Owner      Owner
	SnapshotID string            // empty: a blank volume of SizeGiB
	SizeGiB    int32             // 0: the snapshot's
	Encrypt    bool              // what the snapshot or the account's default does not encrypt anyway
	KMSKeyID   string            // with Encrypt: id, alias or ARN of a key; empty: the account's default
	Type       string            // gp3
	Rate       int32             // VolumeInitializationRate in MiB/s, 100 to 300; 0: off
	Tags       map[string]string // besides those that say whose it is
}

// attempts is how many client tokens Make tries, in the same order each time: a program that starts again walks the same list.
const attempts = 8

// Make creates a volume and waits until it is available. When an earlier run made it already, this very volume is returned, perhaps attached
// to the owner. With an error, a Volume that has an ID exists all the same: remove it, or leave it to the next run.
func (v *Volumes) Make(ctx context.Context, r Request) (Volume, error) {
	var err error
	for try := range attempts {
		var made Volume
		started := time.Now()
		if made, err = v.create(ctx, r, try); err == nil {
			made, err = v.waitAvailable(ctx, made, time.Since(started))
		}
		switch {
		case err == nil:
			return made, nil
		case isTokenBurned(err):
			v.log.Debug("the client token is used up, taking the next", "try", try, "error", err)
		case errors.Is(err, errGone) && !made.Encrypted:
			v.log.Warn("the volume is gone, making another", "volume", made.ID, "error", err)
		default:
			return made, err
		}
	}
	return Volume{}, fmt.Errorf("create a volume: none of %d client tokens led to one: %w", attempts, err)
}

// CreateInput is the request of a try (0, 1, …), the same for the same Request.
func CreateInput(r Request, try int) *ec2.CreateVolumeInput {
	in := &ec2.CreateVolumeInput{
		AvailabilityZone:  aws.String(r.Owner.Zone),
		VolumeType:        types.VolumeType(r.Type),
		ClientToken:       aws.String(token(r, try)),
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeVolume, Tags: sdkTags(r.tags())}},
	}
	if r.SnapshotID != "" {
		in.SnapshotId = aws.String(r.SnapshotID)
	}
	if r.SizeGiB > 0 {
		in.Size = aws.Int32(r.SizeGiB)
	}
	if r.Encrypt {
		in.Encrypted = aws.Bool(true)
	}
	if r.KMSKeyID != "" {
		in.KmsKeyId = aws.String(r.KMSKeyID)
	}
	if r.Rate > 0 {
		in.VolumeInitializationRate = aws.Int32(r.Rate)
	}
	return in
}

func (r Request) tags() map[string]string {
	tags := map[string]string{
		TagName:       "ebs-release " + r.Owner.InstanceID,
		TagRole:       r.Owner.Role,
		TagInstance:   r.Owner.InstanceID,
		TagMountPoint: r.Owner.MountPoint,
	}
	maps.Copy(tags, r.Tags)
	return tags
}

func (v *Volumes) create(ctx context.Context, r Request, try int) (Volume, error) {
	out, err := v.api.CreateVolume(ctx, CreateInput(r, try))
	if err != nil {
		return Volume{}, createError(r, err)
	}
	return Volume{
		ID: aws.ToString(out.VolumeId), State: out.State, Zone: aws.ToString(out.AvailabilityZone), SnapshotID: aws.ToString(out.SnapshotId),
		SizeGiB: aws.ToInt32(out.Size), Encrypted: aws.ToBool(out.Encrypted), KMSKeyID: aws.ToString(out.KmsKeyId), Created: aws.ToTime(out.CreateTime),
		Tags: r.tags(),
	}, nil
}

func createError(r Request, err error) error {
	what := fmt.Sprintf("create a volume from %s in %s", r.SnapshotID, r.Owner.Zone)
	if r.SnapshotID == "" {
		what = fmt.Sprintf("create a blank volume of %d GiB in %s", r.SizeGiB, r.Owner.Zone)
	}
	if isSnapshotUnusable(err) {
		return fmt.Errorf("%s: %w: %w", what, ErrSnapshot, explain("CreateVolume", err))
	}
	if IsDenied(err) && r.SnapshotID != "" { // the policy goes by the snapshot's tag, and what is gone has none
		return fmt.Errorf("%s: %w; or see whether %s is still there, with the tag %s=%s", what, explain("CreateVolume", err), r.SnapshotID, TagRole, RoleRelease)
	}
	return fmt.Errorf("%s: %w", what, explain("CreateVolume", err))
}

// token is the client token of a try: the same for the same volume, so that a call whose answer was lost makes nothing new. 64 characters.
func token(r Request, try int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%s\n%d", r.Owner.Role, r.Owner.InstanceID, r.SnapshotID, r.Owner.MountPoint, try))
	return hex.EncodeToString(sum[:])
}

// sdkTags renders tags in a fixed order: with the same client token, EC2 wants the same parameters.
func sdkTags(tags map[string]string) []types.Tag {
	out := make([]types.Tag, 0, len(tags))
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		out = append(out, types.Tag{Key: aws.String(key), Value: aws.String(tags[key])})
	}
	return out
}

// errGone: the volume that a client token led to does not exist any more.
var errGone = fmt.Errorf("%w: it is gone", ErrFailed)

// waitAvailable asks until the volume can be attached (or is attached to its owner: an earlier run did). createTook is how long the API
// needed for the create: EC2 takes about 0.3 s, and one that answers in milliseconds need not be given a second before the first look.
func (v *Volumes) waitAvailable(ctx context.Context, made Volume, createTook time.Duration) (Volume, error) {
	quick := max(5*createTook, 10*time.Millisecond)
	wait, poll := min(v.timing.FirstLook, quick), min(v.timing.Poll, quick)
	started := time.Now()
	now := made
	for {
		switch now.State {
		case types.VolumeStateAvailable:
			return now, nil
		case types.VolumeStateInUse:
			if owner := made.Tags[TagInstance]; now.Attachment.InstanceID != "" && now.Attachment.InstanceID != owner {
				return now, fmt.Errorf("wait until %s is available: %w: it is attached to %s", made.ID, ErrFailed, now.Attachment.InstanceID)
			}
			if now.Attachment.InstanceID != "" {
				return now, nil
			}
		case types.VolumeStateError:
			return now, fmt.Errorf("wait until %s is available: %w: EC2 says state `error`%s", made.ID, ErrFailed, keyHint(made))
		case types.VolumeStateDeleting, types.VolumeStateDeleted:
			return now, fmt.Errorf("wait until %s is available: %w (%s)", made.ID, errGone, now.State)
		}
		if err := pause(ctx, wait); err != nil {
			return now, fmt.Errorf("wait until %s is available: %w, EC2 still says `%s`", made.ID, err, now.State)
		}
		wait, poll = poll, min(poll*3/2, v.timing.SlowPoll)
		next, err := v.Describe(ctx, made.ID)
		switch {
		case err == nil:
			now = next
		case IsNotFound(err) && time.Since(started) < v.timing.Vanished: // EC2's memory comes and goes at first
		case IsNotFound(err):
			return made, fmt.Errorf("wait until %s is available: %w: EC2 made it, and does not know it any more%s", made.ID, errGone, keyHint(made))
		default:
			return now, fmt.Errorf("wait until %s is available: %w", made.ID, err)
		}
	}
}

// keyHint names the KMS key: an encrypted volume whose key may not be used is accepted, and then vanishes (CSI #3010, #1916).
func keyHint(made Volume) string {
	if !made.Encrypted {
		return ""
	}
	return fmt.Sprintf(". It is encrypted: Try: allow this instance's role kms:CreateGrant, kms:Decrypt, kms:DescribeKey, "+
		"kms:GenerateDataKeyWithoutPlaintext and kms:ReEncrypt* on the key %s", made.KMSKeyID)
}
