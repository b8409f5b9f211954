package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	smithytime "github.com/aws/smithy-go/time"
)

// volumeTime is for EC2 to create a volume, for it to attach one, and for each look at one: seconds
// on a good day, and then there are the others. Calls are made again until then (volume.NewEC2).
const volumeTime = 3 * time.Minute

// serverVolumes are the EBS volumes of this release server.
type serverVolumes struct {
	*volume.Volumes
	owner volume.Owner
	tags  map[string]string // of the account: the setting tags
}

// find returns the volume that an earlier init made for this instance and mount point; "" when
// there is none.
func (s serverVolumes) find(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, volumeTime)
	defer cancel()
	mine, err := s.Mine(ctx, s.owner)
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
		strings.Join(found, ", "), s.owner.MountPoint)
}

// create makes a blank volume, or one from a snapshot, which then gives the size.
func (s serverVolumes) create(ctx context.Context, f initFlags) (volume.Volume, error) {
	ctx, cancel := context.WithTimeout(ctx, volumeTime)
	defer cancel()
	size := f.size
	if f.snapshot != "" {
		size = 0
	}
	made, err := s.Make(ctx, volume.Request{
		Owner: s.owner, SnapshotID: f.snapshot, SizeGiB: size, Type: f.volumeType, Encrypt: f.encrypt || f.kmsKey != "", KMSKeyID: f.kmsKey,
		Tags: map[string]string{volume.TagName: "ebs-release server " + s.owner.MountPoint}, OwnTags: s.tags,
	})
	if made.SizeGiB == 0 {
		made.SizeGiB = size
	}
	return made, err
}

// madeFrom refuses a volume that was not made from the snapshot that was asked for, if one was:
// this server has a release volume already.
func (s serverVolumes) madeFrom(ctx context.Context, id, snapshot string) error {
	if snapshot == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, volumeTime)
	defer cancel()
	v, err := s.Describe(ctx, id)
	switch {
	case err != nil:
		return err
	case v.SnapshotID == snapshot:
		return nil
	}
	return fmt.Errorf("%s is the release volume of this server already, and was not made from %s: run init without --snapshot, "+
		"or unmount it, take its line out of /etc/fstab, and delete it first", id, snapshot)
}

// attach attaches the volume to this instance, and returns the device name that EC2 knows it by.
// attached: it was not before.
func (s serverVolumes) attach(ctx context.Context, id string) (name string, attached bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, volumeTime)
	defer cancel()
	v, err := s.Describe(ctx, id)
	switch {
	case err != nil:
		return "", false, err
	case v.Attachment.InstanceID == s.owner.InstanceID:
		return v.Attachment.Device, false, nil
	case v.Attachment.InstanceID != "":
		return "", false, fmt.Errorf("%s is attached to %s", id, v.Attachment.InstanceID)
	case v.Zone != s.owner.Zone:
		return "", false, fmt.Errorf("%s is in %s, this instance in %s: EBS volumes cannot cross zones", id, v.Zone, s.owner.Zone)
	}
	v, err = s.Attach(ctx, v, s.owner, nil)
	return v.Attachment.Device, true, err
}

// check refuses a volume that an agent made. It changes nothing.
func (s serverVolumes) check(ctx context.Context, id string) error {
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
func (s serverVolumes) known(ctx context.Context, id string) (volume.Volume, error) {
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
func (s serverVolumes) store(ctx context.Context, id string) (string, error) {
	v, err := s.known(ctx, id)
	return v.Tags[volume.TagStore], err
}

// mark sets the tags of a release server's volume, if they are not there. store may be empty: no
// tag for it.
func (s serverVolumes) mark(ctx context.Context, id, store string) (changed bool, err error) {
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
		volume.TagInstance: s.owner.InstanceID, volume.TagMountPoint: s.owner.MountPoint}
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
