package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Attach attaches a volume to its owner under a free device name, and returns it with that attachment, which is still `attaching`:
// whether the disk is here is the kernel's to say. Names in skip are not used. Until ctx ends it waits for an instance that EC2 does
// not call running yet (dstack #3603: an instance boots before EC2 leaves `pending`) and for a volume that is not available yet
// (kubernetes #71750). One that never will be, because it failed or is gone, is an ErrFailed.
func (v *Volumes) Attach(ctx context.Context, vol Volume, owner Owner, skip []string) (Volume, error) {
	var last error
	started := time.Now()
	names, wait := DeviceNames(skip), v.timing.Poll
	for len(names) > 0 {
		out, err := v.api.AttachVolume(ctx, &ec2.AttachVolumeInput{
			VolumeId: aws.String(vol.ID), InstanceId: aws.String(owner.InstanceID), Device: aws.String(names[0]),
		})
		if err == nil {
			vol.State = types.VolumeStateInUse
			vol.Attachment = Attachment{InstanceID: owner.InstanceID, Device: names[0], State: out.State}
			return vol, nil
		}
		if ctx.Err() != nil && last != nil {
			err = fmt.Errorf("%w, before that: %w", ctx.Err(), last)
		} else {
			err = explain("AttachVolume", err)
		}
		failed := fmt.Errorf("attach %s to %s as %s: %w", vol.ID, owner.InstanceID, names[0], err)
		switch {
		case ctx.Err() != nil:
			return vol, failed
		case isNameTaken(err):
			names, last = names[1:], err
		case isInUse(err):
			if now, ok := v.attachedTo(ctx, vol.ID, owner.InstanceID); ok {
				return now, nil
			}
			return vol, failed
		case isLimit(err):
			return vol, fmt.Errorf("%w: %w: a %s takes no more volumes. Try: a larger instance type, or fewer volumes", failed, ErrLimit, owner.InstanceType)
		case IsNotFound(err) && time.Since(started) >= v.timing.Vanished:
			return vol, fmt.Errorf("%w: %w", failed, errGone)
		case isIncorrectState(err), IsNotFound(err), isInstanceNotFound(err):
			if says(err, vol.ID) && isIncorrectState(err) { // it is the volume, not the instance
				if state := v.finalState(ctx, vol.ID); state != "" {
					return vol, fmt.Errorf("%w: %w: EC2 says state `%s`", failed, ErrFailed, state)
				}
			}
			last = err
			v.log.Debug("cannot attach yet", "volume", vol.ID, "error", err)
			if pause(ctx, wait) != nil {
				return vol, fmt.Errorf("attach %s to %s: %w, and EC2 still answers: %w", vol.ID, owner.InstanceID, ctx.Err(), err)
			}
			wait = min(wait*3/2, v.timing.SlowPoll)
		default:
			return vol, failed
		}
	}
	return vol, fmt.Errorf("attach %s to %s: no device name is free: %w", vol.ID, owner.InstanceID, last)
}

// attachedTo says whether the volume is attached to the instance, by a call of ours whose answer was lost.
func (v *Volumes) attachedTo(ctx context.Context, volumeID, instanceID string) (Volume, bool) {
	now, err := v.Describe(ctx, volumeID)
	return now, err == nil && now.Attachment.InstanceID == instanceID &&
		(now.Attachment.State == types.VolumeAttachmentStateAttaching || now.Attachment.State == types.VolumeAttachmentStateAttached)
}

// finalState is the state of a volume that will not become available any more, "" for any other.
func (v *Volumes) finalState(ctx context.Context, volumeID string) types.VolumeState {
	now, err := v.Describe(ctx, volumeID)
	if err == nil && slices.Contains([]types.VolumeState{types.VolumeStateError, types.VolumeStateDeleting, types.VolumeStateDeleted}, now.State) {
		return now.State
	}
	return ""
}

// DeviceNames are the names to attach by, in order: /dev/xvdaa to /dev/xvddx, but those in skip. Two letters, because people and block device
// mappings use one, where sdf and xvdf are the same slot (etcd-manager #217). The CSI driver uses the same range.
func DeviceNames(skip []string) []string {
	var names []string
	for first := 'a'; first <= 'd'; first++ {
		for second := 'a'; second <= 'x'; second++ {
			if name := fmt.Sprintf("/dev/xvd%c%c", first, second); !slices.Contains(skip, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// Protect has EC2 delete the volume with its instance. EC2 may not see the attachment at once: until ctx ends that is waited for.
func (v *Volumes) Protect(ctx context.Context, vol Volume) error {
	in := &ec2.ModifyInstanceAttributeInput{
		InstanceId: aws.String(vol.Attachment.InstanceID),
		BlockDeviceMappings: []types.InstanceBlockDeviceMappingSpecification{{
			DeviceName: aws.String(vol.Attachment.Device),
			Ebs:        &types.EbsInstanceBlockDeviceSpecification{VolumeId: aws.String(vol.ID), DeleteOnTermination: aws.Bool(true)},
		}},
	}
	for wait := v.timing.Poll; ; wait = min(wait*3/2, v.timing.SlowPoll) {
		_, err := v.api.ModifyInstanceAttribute(ctx, in)
		if err == nil {
			return nil
		}
		err = fmt.Errorf("set DeleteOnTermination of %s: %w", vol.ID, explain("ModifyInstanceAttribute", err))
		if !isNotMapped(err) && !isIncorrectState(err) && !isInstanceNotFound(err) {
			return err
		}
		if pause(ctx, wait) != nil {
			return fmt.Errorf("%w, and %w", err, ctx.Err())
		}
	}
}

// Remove detaches a volume from an instance, if it is attached there, and deletes it. One that is gone already is no error; one that is
// attached to something else stays, with an error.
func (v *Volumes) Remove(ctx context.Context, volumeID, instanceID string) error {
	if err := v.remove(ctx, volumeID, instanceID); err != nil && !IsNotFound(err) {
		return fmt.Errorf("remove %s: %w", volumeID, err)
	}
	return nil
}

func (v *Volumes) remove(ctx context.Context, volumeID, instanceID string) error {
	detached := false
	started := time.Now()
	for wait := v.timing.Poll; ; wait = min(wait*3/2, v.timing.SlowPoll) {
		now, err := v.Describe(ctx, volumeID)
		if IsNotFound(err) && time.Since(started) < v.timing.Vanished {
			// Made a moment ago, perhaps. Deleting tells: it is not asked of the lagging copy.
			now, err = Volume{ID: volumeID, State: types.VolumeStateAvailable}, nil
		}
		if err != nil {
			return err
		}
		switch {
		case now.State == types.VolumeStateDeleting || now.State == types.VolumeStateDeleted:
			return nil
		case now.Attachment.InstanceID != "" && now.Attachment.InstanceID != instanceID:
			return fmt.Errorf("it is attached to %s", now.Attachment.InstanceID)
		case now.Attachment.InstanceID != "" && !detached:
			err = v.detach(ctx, volumeID, instanceID)
			detached = err == nil
		case now.State == types.VolumeStateAvailable || now.State == types.VolumeStateError:
			_, err = v.api.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: aws.String(volumeID)})
			if err == nil {
				v.log.Info("deleted a volume", "volume", volumeID)
				return nil
			}
			err = explain("DeleteVolume", err)
		}
		if err != nil && !isIncorrectState(err) && !isInUse(err) {
			return err
		}
		if ended := pause(ctx, wait); ended != nil {
			return errors.Join(fmt.Errorf("%w, EC2 says `%s`", ended, strings.TrimSpace(string(now.State)+" "+string(now.Attachment.State))), err)
		}
	}
}

func (v *Volumes) detach(ctx context.Context, volumeID, instanceID string) error {
	_, err := v.api.DetachVolume(ctx, &ec2.DetachVolumeInput{VolumeId: aws.String(volumeID), InstanceId: aws.String(instanceID)})
	if err == nil || isIncorrectState(err) || hasCode(err, "InvalidAttachment.NotFound") { // detaching, or detached already
		return nil
	}
	return explain("DetachVolume", err)
}
