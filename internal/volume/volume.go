// Package volume makes, attaches, protects and removes EBS volumes, and knows which of EC2's errors
// are final.
//
// A volume that this package made says by its tags whose it is (tags.go), from the very call that
// makes it. So a program that was killed at any moment finds its volumes again, and makes the same
// volume at most once (client tokens, see Create).
package volume

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	smithytime "github.com/aws/smithy-go/time"
)

// EC2 is what this package asks of EC2, with the SDK's own signatures.
type EC2 interface {
	DescribeVolumes(context.Context, *ec2.DescribeVolumesInput, ...func(*ec2.Options)) (*ec2.DescribeVolumesOutput, error)
	CreateVolume(context.Context, *ec2.CreateVolumeInput, ...func(*ec2.Options)) (*ec2.CreateVolumeOutput, error)
	AttachVolume(context.Context, *ec2.AttachVolumeInput, ...func(*ec2.Options)) (*ec2.AttachVolumeOutput, error)
	ModifyInstanceAttribute(context.Context, *ec2.ModifyInstanceAttributeInput,
		...func(*ec2.Options)) (*ec2.ModifyInstanceAttributeOutput, error)
	DetachVolume(context.Context, *ec2.DetachVolumeInput, ...func(*ec2.Options)) (*ec2.DetachVolumeOutput, error)
	DeleteVolume(context.Context, *ec2.DeleteVolumeInput, ...func(*ec2.Options)) (*ec2.DeleteVolumeOutput, error)
	CreateTags(context.Context, *ec2.CreateTagsInput, ...func(*ec2.Options)) (*ec2.CreateTagsOutput, error)
}

// Volume is an EBS volume as EC2 described it last.
type Volume struct {
	ID         string
	State      types.VolumeState
	Zone       string
	SnapshotID string
	SizeGiB    int32
	Encrypted  bool
	KMSKeyID   string
	Created    time.Time
	Tags       map[string]string
	Attachment Attachment // zero when it is attached to nothing

	asked, answered time.Time // of the create, when this program made it
}

// Attachment ties a volume to an instance.
type Attachment struct {
	InstanceID          string
	Device              string // /dev/xvdaa: the name in EC2's mapping; what the kernel calls the disk is another thing
	State               types.VolumeAttachmentState
	DeleteOnTermination bool
}

// Owner is whom a volume is for. A Role, an instance and a mount point make it unique.
type Owner struct {
	Role         string // RoleMember, RoleServer
	InstanceID   string
	InstanceType string // for what errors say
	Zone         string
	MountPoint   string
}

// Volumes does what is done with volumes.
type Volumes struct {
	api    EC2
	log    *slog.Logger
	timing Timing

	throttled atomic.Bool
}

// New returns Volumes over an EC2 client (see NewEC2 for one with the right retries).
func New(api EC2, timing Timing, log *slog.Logger) *Volumes {
	return &Volumes{api: api, log: log, timing: timing}
}

// Timing is how often EC2 is asked. The stock waiters of the SDK ask every 15 s.
type Timing struct {
	// FirstLook is when a new volume is looked at first, after the create was answered. Half of
	// them are available 1.5 s after it took effect, 99 % after 4 s (CSI driver); a look takes 0.2
	// to 0.3 s. docs/performance.md says what comes of other times.
	FirstLook time.Duration
	// Poll is the pause between looks after that (twice that before the second); in the end it
	// grows up to SlowPoll.
	Poll, SlowPoll time.Duration
	// Sure is the first look where many machines boot at once: 99 % are available by then.
	Sure time.Duration
	// Mapped is how long after an attach the first call about it comes, where many machines boot at
	// once: EC2's answers may be a second old.
	Mapped time.Duration
	// Vanished is how long EC2 may say "not found" of a volume that it made (kubernetes #77389),
	// before that is believed.
	Vanished time.Duration
}

// DefaultTiming follows the figures that are published for EC2.
func DefaultTiming() Timing {
	return Timing{
		FirstLook: 950 * time.Millisecond,
		Poll:      100 * time.Millisecond,
		SlowPoll:  2 * time.Second,
		Sure:      4 * time.Second,
		Mapped:    time.Second,
		Vanished:  10 * time.Second,
	}
}

// PerPage is the most that EC2 takes as MaxResults of a Describe. A call without it has a smaller
// request bucket, and times out in an account that is large (row 42).
const PerPage = 1000

// Mine returns the volumes that carry the owner's tags, but those being deleted. One call to EC2,
// more only past a page.
func (v *Volumes) Mine(ctx context.Context, owner Owner) ([]Volume, error) {
	in := &ec2.DescribeVolumesInput{MaxResults: aws.Int32(PerPage), Filters: []types.Filter{
		{Name: aws.String("tag:" + TagRole), Values: []string{owner.Role}},
		{Name: aws.String("tag:" + TagInstance), Values: []string{owner.InstanceID}},
		{Name: aws.String("tag:" + TagMountPoint), Values: []string{owner.MountPoint}},
	}}
	var mine []Volume
	for pages := ec2.NewDescribeVolumesPaginator(v.api, in); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx, v.note)
		if err != nil {
			return nil, fmt.Errorf("look for volumes of %s: %w", owner.InstanceID, explain("DescribeVolumes", err))
		}
		for _, d := range page.Volumes {
			if d.State != types.VolumeStateDeleting && d.State != types.VolumeStateDeleted {
				mine = append(mine, from(d))
			}
		}
	}
	return mine, nil
}

// Describe returns one volume as EC2 sees it. IsNotFound tells an error that says there is none.
func (v *Volumes) Describe(ctx context.Context, id string) (Volume, error) {
	out, err := v.api.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{id}}, v.note)
	if err != nil {
		return Volume{}, fmt.Errorf("describe %s: %w", id, explain("DescribeVolumes", err))
	}
	if len(out.Volumes) != 1 {
		return Volume{}, fmt.Errorf("describe %s: EC2 answered with %d volumes", id, len(out.Volumes))
	}
	return from(out.Volumes[0]), nil
}

// Tag writes tags on a volume or an instance, over those it has. EC2 takes values of up to 256
// characters.
func (v *Volumes) Tag(ctx context.Context, id string, tags map[string]string) error {
	started := time.Now()
	for wait := v.timing.Poll; ; wait = min(wait*3/2, v.timing.SlowPoll) {
		_, err := v.api.CreateTags(ctx, TagInput(id, tags), v.note)
		switch {
		case err == nil:
			return nil
		// It is new, and EC2's answers may go back in time.
		case (IsNotFound(err) || IsInstanceNotFound(err)) && time.Since(started) < v.timing.Vanished:
		default:
			return fmt.Errorf("tag %s: %w", id, explain("CreateTags", err))
		}
		if err := pause(ctx, wait); err != nil {
			return fmt.Errorf("tag %s: %w", id, err)
		}
	}
}

// TagInput is the request of Tag.
func TagInput(id string, tags map[string]string) *ec2.CreateTagsInput {
	return &ec2.CreateTagsInput{Resources: []string{id}, Tags: sdkTags(tags)}
}

func from(d types.Volume) Volume {
	v := Volume{
		ID: aws.ToString(d.VolumeId), State: d.State, Zone: aws.ToString(d.AvailabilityZone), SnapshotID: aws.ToString(d.SnapshotId),
		SizeGiB: aws.ToInt32(d.Size), Encrypted: aws.ToBool(d.Encrypted), KMSKeyID: aws.ToString(d.KmsKeyId), Created: aws.ToTime(d.CreateTime),
		Tags: map[string]string{},
	}
	for _, tag := range d.Tags {
		v.Tags[aws.ToString(tag.Key)] = aws.ToString(tag.Value)
	}
	for _, a := range d.Attachments {
		if a.State != types.VolumeAttachmentStateDetached {
			v.Attachment = Attachment{
				InstanceID: aws.ToString(a.InstanceId), Device: aws.ToString(a.Device),
				State: a.State, DeleteOnTermination: aws.ToBool(a.DeleteOnTermination),
			}
		}
	}
	return v
}

// pause waits for d, a quarter more or less, or until ctx ends: then it returns ctx's error.
func pause(ctx context.Context, d time.Duration) error {
	return smithytime.SleepWithContext(ctx, d*3/4+rand.N(max(d/2, 1)))
}
