package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/advice"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Attach attaches a volume to its owner under a free device name, and returns it with that
// attachment, which is still `attaching`: whether the disk is here is the kernel's to say. Names in
// skip are not used. Until ctx ends it waits for an instance that EC2 does not call running yet
// (dstack #3603: an instance boots before EC2 leaves `pending`) and for a volume that is not
// available yet (kubernetes #71750). One that never will be, because it failed or is gone, is an
// ErrFailed.
func (v *Volumes) Attach(ctx context.Context, vol Volume, owner Owner, skip []string) (Volume, error) {
	looks := v.looksAt(vol)
	if err := looks.first(ctx); err != nil {
		return vol, fmt.Errorf("attach %s to %s: %w before it could be available", vol.ID, owner.InstanceID, err)
	}
	var last error
	wait := v.timing.Poll
	for names := DeviceNames(skip); len(names) > 0; {
		now, err := v.attach(ctx, vol, owner, names[0])
		switch {
		case err == nil:
			return now, nil
		case ctx.Err() != nil && last != nil:
			return vol, fmt.Errorf("%w, before that: %w", err, last)
		case isNameTaken(err):
			names = names[1:]
		case isInUse(err):
			if now, ok := v.attachedTo(ctx, vol.ID, owner.InstanceID); ok {
				return now, nil
			}
			return vol, err
		case isLimit(err):
			return vol, advice.Try(fmt.Errorf("%w: %w: a %s takes no more volumes", err, ErrLimit, owner.InstanceType),
				"a larger instance type, or fewer volumes")
		case IsNotFound(err), isIncorrectState(err) && says(err, vol.ID), IsDenied(err) && !looks.seen:
			if IsDenied(err) { // a policy that goes by tags refuses what EC2 does not know, or not yet: the volume may have vanished
				looks.attaching = 0
			}
			now, failed := looks.again(ctx, vol, owner)
			switch {
			case errors.Is(failed, ErrFailed):
				return vol, fmt.Errorf("attach %s to %s: %w", vol.ID, owner.InstanceID, failed)
			case failed != nil:
				return vol, advice.Errorf("%w (%w)", err, failed)
			}
			if now.Attachment.InstanceID != "" {
				return now, nil
			}
		case isIncorrectState(err), IsInstanceNotFound(err):
			v.log.Debug("EC2 does not call the instance running yet", "volume", vol.ID, "error", err)
			if v.Crowded() {
				wait = v.timing.Sure
			}
			if ended := pause(ctx, wait); ended != nil {
				return vol, advice.Errorf("%w (again and again: %w)", err, ended)
			}
			wait = min(wait*3/2, v.timing.SlowPoll)
		default:
			return vol, err
		}
		last = err
	}
	return vol, fmt.Errorf("attach %s to %s: no device name is free: %w", vol.ID, owner.InstanceID, last)
}

func (v *Volumes) attach(ctx context.Context, vol Volume, owner Owner, name string) (Volume, error) {
	out, err := v.api.AttachVolume(ctx, attachInput(vol.ID, owner.InstanceID, name), v.note)
	if err != nil {
		return vol, fmt.Errorf("attach %s to %s as %s: %w", vol.ID, owner.InstanceID, name, explain("AttachVolume", err))
	}
	vol.State = types.VolumeStateInUse
	vol.Attachment = Attachment{InstanceID: owner.InstanceID, Device: name, State: out.State}
	return vol, nil
}

// attachInput is the request of Attach.
func attachInput(volumeID, instanceID, name string) *ec2.AttachVolumeInput {
	return &ec2.AttachVolumeInput{VolumeId: aws.String(volumeID), InstanceId: aws.String(instanceID), Device: aws.String(name)}
}

// attachedTo says whether a volume in use is attached to the instance, by a call of ours whose
// answer was lost. An answer that knows of no attachment is an old one: EC2 is asked again, for a
// while.
func (v *Volumes) attachedTo(ctx context.Context, volumeID, instanceID string) (Volume, bool) {
	asked := time.Now()
	for wait := v.timing.Poll; ; wait = min(wait*3/2, v.timing.SlowPoll) {
		now, err := v.Describe(ctx, volumeID)
		if err != nil && !IsNotFound(err) {
			return now, false
		}
		if now.Attachment.InstanceID != "" {
			return now, now.Attachment.InstanceID == instanceID &&
				(now.Attachment.State == types.VolumeAttachmentStateAttaching || now.Attachment.State == types.VolumeAttachmentStateAttached)
		}
		if time.Since(asked) > v.timing.Vanished || pause(ctx, wait) != nil {
			return now, false
		}
	}
}

// DeviceNames are the names to attach by, in order: /dev/xvdaa to /dev/xvddx, but those in skip.
// Two letters, because people and block device mappings use one, where sdf and xvdf are the same
// slot (etcd-manager #217). The CSI driver uses the same range.
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

// Protect has EC2 delete the volume with its instance. EC2 may not see the attachment at once:
// until ctx ends that is waited for. An attachment without a device name is one that EC2 has not
// told yet: it is asked for it.
func (v *Volumes) Protect(ctx context.Context, vol Volume) error {
	if vol.Attachment.Device == "" {
		now, err := v.named(ctx, vol)
		if err != nil || now.Attachment.DeleteOnTermination {
			return err
		}
		vol = now
	}
	in := protectInput(vol.ID, vol.Attachment.InstanceID, vol.Attachment.Device)
	if v.Crowded() { // else each tenth call would come before EC2 sees the attachment
		if err := pause(ctx, v.timing.Mapped); err != nil {
			return fmt.Errorf("set DeleteOnTermination of %s: %w", vol.ID, err)
		}
	}
	for wait := v.timing.Poll; ; wait = min(wait*3/2, v.timing.SlowPoll) {
		_, err := v.api.ModifyInstanceAttribute(ctx, in, v.note)
		if err == nil {
			return nil
		}
		err = fmt.Errorf("set DeleteOnTermination of %s: %w", vol.ID, explain("ModifyInstanceAttribute", err))
		if !isNotMapped(err) && !isIncorrectState(err) && !IsInstanceNotFound(err) {
			return err
		}
		if pause(ctx, wait) != nil {
			return fmt.Errorf("%w, and %w", err, ctx.Err())
		}
	}
}

// named waits until EC2 says under which name the volume is attached to the instance of its
// attachment.
func (v *Volumes) named(ctx context.Context, vol Volume) (Volume, error) {
	for wait := v.timing.Poll; ; wait = min(wait*3/2, v.timing.SlowPoll) {
		now, err := v.Describe(ctx, vol.ID)
		switch at := now.Attachment; {
		case err != nil && !IsNotFound(err):
			return vol, err
		case at.InstanceID == vol.Attachment.InstanceID && at.Device != "":
			return now, nil
		case at.InstanceID != "" && at.InstanceID != vol.Attachment.InstanceID:
			return vol, fmt.Errorf("set DeleteOnTermination of %s: EC2 says that it is attached to %s, not to %s",
				vol.ID, at.InstanceID, vol.Attachment.InstanceID)
		}
		if ended := pause(ctx, wait); ended != nil {
			return vol, fmt.Errorf("set DeleteOnTermination of %s: EC2 does not say that it is attached to %s: %w",
				vol.ID, vol.Attachment.InstanceID, ended)
		}
	}
}

// protectInput is the request of Protect.
func protectInput(volumeID, instanceID, name string) *ec2.ModifyInstanceAttributeInput {
	return &ec2.ModifyInstanceAttributeInput{
		InstanceId: aws.String(instanceID),
		BlockDeviceMappings: []types.InstanceBlockDeviceMappingSpecification{{
			DeviceName: aws.String(name),
			Ebs:        &types.EbsInstanceBlockDeviceSpecification{VolumeId: aws.String(volumeID), DeleteOnTermination: aws.Bool(true)},
		}},
	}
}

// Remove detaches a volume from an instance, if it is attached there, and deletes it. One that is
// gone already is no error; one that is attached to something else stays, with an error.
func (v *Volumes) Remove(ctx context.Context, vol Volume, instanceID string) error {
	if err := v.remove(ctx, vol, instanceID); err != nil {
		return fmt.Errorf("remove %s: %w", vol.ID, err)
	}
	return nil
}

func (v *Volumes) remove(ctx context.Context, vol Volume, instanceID string) error {
	volumeID, detached := vol.ID, false
	for wait := v.timing.Poll; ; wait = min(wait*3/2, v.timing.SlowPoll) {
		now, err := v.Describe(ctx, volumeID)
		unknown := IsNotFound(err)
		if err != nil && !unknown {
			return err
		}
		switch {
		case unknown:
			// EC2's memory comes and goes; deleting tells. A policy that goes by tags refuses to
			// delete what EC2 does not know.
			err = v.delete(ctx, volumeID)
			if IsNotFound(err) || IsDenied(err) {
				if !vol.isNew() || time.Since(vol.answered) > v.timing.Vanished {
					return nil
				}
				err = nil
			} else if err == nil {
				return nil
			}
		case now.State == types.VolumeStateDeleting || now.State == types.VolumeStateDeleted:
			return nil
		case now.Attachment.InstanceID != "" && now.Attachment.InstanceID != instanceID:
			return fmt.Errorf("it is attached to %s", now.Attachment.InstanceID)
		case now.Attachment.InstanceID != "" && !detached:
			err = v.detach(ctx, volumeID, instanceID)
			detached = err == nil
		case now.State == types.VolumeStateAvailable || now.State == types.VolumeStateError:
			if err = v.delete(ctx, volumeID); err == nil || IsNotFound(err) {
				return nil
			}
		}
		if err != nil && !isIncorrectState(err) && !isInUse(err) {
			return err
		}
		if ended := pause(ctx, wait); ended != nil {
			return errors.Join(fmt.Errorf("%w, EC2 says `%s`", ended, strings.TrimSpace(string(now.State)+" "+string(now.Attachment.State))), err)
		}
	}
}

func (v *Volumes) delete(ctx context.Context, volumeID string) error {
	if _, err := v.api.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: aws.String(volumeID)}); err != nil {
		return explain("DeleteVolume", err)
	}
	v.log.Info("deleted a volume", "volume", volumeID)
	return nil
}

func (v *Volumes) detach(ctx context.Context, volumeID, instanceID string) error {
	_, err := v.api.DetachVolume(ctx, &ec2.DetachVolumeInput{VolumeId: aws.String(volumeID), InstanceId: aws.String(instanceID)})
	if err == nil || isNotAttached(err) {
		return nil
	}
	return explain("DetachVolume", err)
}
