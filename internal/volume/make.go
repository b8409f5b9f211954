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

	"ebs-release/internal/advice"

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
	IOPS       int32             // of gp3, 3,000 to 80,000; 0: EBS's default
	Throughput int32             // of gp3 in MiB/s, 125 to 2,000; 0: EBS's default
	Rate       int32             // VolumeInitializationRate in MiB/s, 100 to 300; 0: off
	Tags       map[string]string // besides those that say whose it is
	OwnTags    map[string]string // of the account, see ParseTags
	Not        []string          // ids that are of no use: a client token that leads to one of them is passed over
}

// Client tokens are tried in the same order each time, so that a program that starts again finds
// the volume that it made before. A volume that is gone has used its token up for 12 hours. The
// first tokens are fixed; the others change every ten minutes. So there is always a fresh one for
// an instance whose volumes all went (a KMS key that may not be used), when the reason is gone.
const (
	attempts     = 100
	fixedTokens  = 8 // the first of the attempts: these tokens depend on the request alone
	tokensChange = 10 * time.Minute
)

// Create asks for a volume and does not wait until it can be attached: Attach does. When an earlier
// run made it already, this very volume is returned as it stands, perhaps attached to the owner.
func (v *Volumes) Create(ctx context.Context, r Request) (Volume, error) {
	var err error
	for try := range attempts {
		var made Volume
		if made, err = v.create(ctx, r, try); err == nil && made.State != types.VolumeStateCreating {
			made, err = v.asItStands(ctx, made)
		}
		at := made.Attachment.InstanceID
		switch {
		case err != nil:
		case isGoing(made.State) || slices.Contains(r.Not, made.ID):
			err = fmt.Errorf("%s: %w", made.ID, errGone)
		case at != "" && at != r.Owner.InstanceID: // somebody moved it, and it would never come free
			err = fmt.Errorf("%s is attached to %s: %w", made.ID, at, errGone)
		}
		if !isTokenBurned(err) && !errors.Is(err, errGone) {
			return made, err
		}
		v.log.Debug("the client token is used up, taking the next", "try", try, "error", err)
	}
	return Volume{}, fmt.Errorf("create a volume: none of %d client tokens led to one: %w", attempts, err)
}

// asItStands looks at a volume that an earlier run made. One that EC2 does not know at the moment
// is as the answer to the create had it.
func (v *Volumes) asItStands(ctx context.Context, made Volume) (Volume, error) {
	now, err := v.Describe(ctx, made.ID)
	switch {
	case IsNotFound(err):
		return made, nil
	case err != nil:
		return made, err
	}
	return now, nil
}

// Make is Create, and waits until the volume is available. With an error, a Volume that has an ID
// exists all the same.
func (v *Volumes) Make(ctx context.Context, r Request) (Volume, error) {
	made, err := v.Create(ctx, r)
	if err != nil || made.State == types.VolumeStateAvailable {
		return made, err
	}
	looks := v.looksAt(made)
	if err := looks.first(ctx); err != nil {
		return made, fmt.Errorf("wait until %s is available: %w", made.ID, err)
	}
	return looks.available(ctx, made, r.Owner)
}

// createInput is the request of a try (0, 1, …), the same for the same Request.
func createInput(r Request, try int) *ec2.CreateVolumeInput {
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
	if r.IOPS > 0 {
		in.Iops = aws.Int32(r.IOPS)
	}
	if r.Throughput > 0 {
		in.Throughput = aws.Int32(r.Throughput)
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
	maps.Copy(tags, r.OwnTags) // Name may be one of them
	return tags
}

func (v *Volumes) create(ctx context.Context, r Request, try int) (Volume, error) {
	asked := time.Now()
	out, err := v.api.CreateVolume(ctx, createInput(r, try), v.note)
	if err != nil {
		return Volume{}, createError(r, err)
	}
	return Volume{
		ID: aws.ToString(out.VolumeId), State: out.State, Zone: aws.ToString(out.AvailabilityZone), SnapshotID: aws.ToString(out.SnapshotId),
		SizeGiB: aws.ToInt32(out.Size), Encrypted: aws.ToBool(out.Encrypted),
		KMSKeyID: aws.ToString(out.KmsKeyId), Created: aws.ToTime(out.CreateTime),
		Tags: r.tags(), asked: asked, answered: time.Now(),
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
		return advice.Also(fmt.Errorf("%s: %w", what, explain("CreateVolume", err)),
			"or see whether %s is still there, with the tag %s=%s", r.SnapshotID, TagRole, RoleRelease)
	}
	if says(err, "Iops to volume size ratio") {
		return advice.Try(fmt.Errorf("%s: %w", what, explain("CreateVolume", err)),
			"a smaller volume-iops, or a larger release volume: a GiB takes 500 IOPS")
	}
	return fmt.Errorf("%s: %w", what, explain("CreateVolume", err))
}

// token is the client token of a try: the same for the same volume, so that a call whose answer was
// lost makes nothing new. 64 characters. What a setting may change (type, IOPS …) is not in it: EC2
// answers with a mismatch, and the next try's is taken.
func token(r Request, try int) string {
	about := fmt.Appendf(nil, "%s\n%s\n%s\n%s\n%d", r.Owner.Role, r.Owner.InstanceID, r.SnapshotID, r.Owner.MountPoint, try)
	if try >= fixedTokens {
		about = fmt.Appendf(about, "\n%d", time.Now().Unix()/int64(tokensChange.Seconds()))
	}
	sum := sha256.Sum256(about)
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
