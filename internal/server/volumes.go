package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/instance"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	smithytime "github.com/aws/smithy-go/time"
)

// volumeTime is for EC2 to create a volume, for it to attach one, and for each look at one: seconds
// on a good day, and then there are the others. Calls are made again until then (volume.NewEC2).
const volumeTime = 3 * time.Minute

// Volumes are the EBS volumes of this release server.
type Volumes struct {
	*volume.Volumes
	Owner volume.Owner
	Tags  map[string]string // of the account: the setting tags
}

// Owner is whom the release volume of a release server is for.
func Owner(who instance.Identity, mountPoint string) volume.Owner {
	return volume.Owner{
		Role: volume.RoleServer, InstanceID: who.InstanceID, InstanceType: who.InstanceType, Zone: who.AvailabilityZone, MountPoint: mountPoint,
	}
}

// find returns the volume that an earlier init made for this instance and mount point; "" when
// there is none.
func (s Volumes) find(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, volumeTime)
	defer cancel()
	mine, err := s.Mine(ctx, s.Owner)
	if err != nil {
		return "", err
	}
	var found []string
	for _, v := range mine {
		if v.State != types.VolumeStateError {
			found = append(found, v.ID)
		}
	}
	switch len(found) {
	case 0:
		return "", nil
	case 1:
		return found[0], nil
	}
	slices.Sort(found)
	return "", fmt.Errorf("%s are all tagged as release volumes of this instance at %s; name one with --volume",
		strings.Join(found, ", "), s.Owner.MountPoint)
}

// create makes a blank volume, or one from a snapshot, which then gives the size.
func (s Volumes) create(ctx context.Context, f Wish, snapshot string) (volume.Volume, error) {
	ctx, cancel := context.WithTimeout(ctx, volumeTime)
	defer cancel()
	size := f.SizeGiB
	if snapshot != "" {
		size = 0
	}
	made, err := s.Make(ctx, volume.Request{
		Owner: s.Owner, SnapshotID: snapshot, SizeGiB: size, Type: f.Type, Encrypt: f.Encrypt || f.KMSKey != "", KMSKeyID: f.KMSKey,
		Tags: map[string]string{volume.TagName: "ebs-release server " + s.Owner.MountPoint}, OwnTags: s.Tags,
	})
	if made.SizeGiB == 0 {
		made.SizeGiB = size
	}
	return made, err
}

// attach attaches the volume to this instance, and returns the device name that EC2 knows it by.
// attached: it was not before.
func (s Volumes) attach(ctx context.Context, id string) (name string, attached bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, volumeTime)
	defer cancel()
	v, err := s.Describe(ctx, id)
	switch {
	case err != nil:
		return "", false, err
	case v.Attachment.InstanceID == s.Owner.InstanceID:
		return v.Attachment.Device, false, nil
	case v.Attachment.InstanceID != "":
		return "", false, fmt.Errorf("%s is attached to %s", id, v.Attachment.InstanceID)
	case v.Zone != s.Owner.Zone:
		return "", false, fmt.Errorf("%s is in %s, this instance in %s: EBS volumes cannot cross zones", id, v.Zone, s.Owner.Zone)
	}
	v, err = s.Attach(ctx, v, s.Owner, nil)
	return v.Attachment.Device, true, err
}

// check refuses a volume that an agent made. It changes nothing.
func (s Volumes) check(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, volumeTime)
	defer cancel()
	v, err := s.Describe(ctx, id)
	if err != nil {
		return err
	}
	return notAMembers(v)
}

func notAMembers(v volume.Volume) error {
	if role := v.Tags[volume.TagRole]; role != "" && role != volume.RoleServer {
		return fmt.Errorf("%s has the tag %s=%s: it belongs to an agent, not to a release server", v.ID, volume.TagRole, role)
	}
	return nil
}

// knownTime is how long EC2 may say that it does not know a volume which is attached here.
const knownTime = 30 * time.Second

// known describes a volume that is attached to this instance. The kernel has its disk: when EC2
// does not know it, that is an old answer (row 5).
func (s Volumes) known(ctx context.Context, id string) (volume.Volume, error) {
	ctx, cancel := context.WithTimeout(ctx, knownTime)
	defer cancel()
	for {
		v, err := s.Describe(ctx, id)
		if !volume.IsNotFound(err) {
			return v, err
		}
		if smithytime.SleepWithContext(ctx, time.Second) != nil {
			return v, err
		}
	}
}

// store is the store that a volume belongs to by its tag; "": none.
func (s Volumes) store(ctx context.Context, id string) (string, error) {
	v, err := s.known(ctx, id)
	return v.Tags[volume.TagStore], err
}

// mark sets the tags of a release server's volume, if they are not there. store may be empty: no
// tag for it.
func (s Volumes) mark(ctx context.Context, id, store string) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, volumeTime)
	defer cancel()
	v, err := s.known(ctx, id)
	if err != nil {
		return false, err
	}
	if err := notAMembers(v); err != nil {
		return false, err
	}
	wanted := map[string]string{volume.TagRole: volume.RoleServer,
		volume.TagInstance: s.Owner.InstanceID, volume.TagMountPoint: s.Owner.MountPoint}
	if store != "" {
		wanted[volume.TagStore] = store
	}
	missing := map[string]string{}
	for key, want := range wanted {
		if v.Tags[key] != want {
			missing[key] = want
		}
	}
	if len(missing) == 0 {
		return false, nil
	}
	return true, s.Tag(ctx, id, missing)
}
