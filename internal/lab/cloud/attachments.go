package cloud

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"
)

// attaching is one AttachVolume that goes on behind its answer.
type attaching struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when it touches nothing any more
}

// ErrBusy is what Hardware.Detach answers when the disk is still mounted: the attachment is `busy`
// until it is not (VolumeAttachment, State; "Detach an Amazon EBS volume from an Amazon EC2
// instance": a mounted volume "can become stuck in the busy state").
var ErrBusy = errors.New("the disk is in use")

// busyRetry is how often a busy detach is tried again.
const busyRetry = time.Second

// deviceNames are the names that EC2 takes (EC2 User Guide, "Device names for volumes on Amazon EC2
// instances", HVM).
var deviceNames = regexp.MustCompile(`^/dev/(sd[a-z]|sd[a-z][1-9]|xvd[a-z]|xvd[a-d][a-z])$`)

// rootDevice is the name of the root volume.
const rootDevice = "/dev/xvda"

// alias returns the other spelling of a device name: sdf and xvdf are the same slot to the guest,
// but not to the API (row 7).
func alias(device string) string {
	if rest, ok := strings.CutPrefix(device, "/dev/sd"); ok {
		return "/dev/xvd" + rest
	}
	return "/dev/sd" + strings.TrimPrefix(device, "/dev/xvd")
}

// attachedTo returns the volumes attached to an instance at a moment, in any state of attachment.
// mu is held.
func (a *Account) attachedTo(instanceID string, at time.Time) []Volume {
	var out []Volume
	for _, e := range a.volumes.list(at) {
		if t := e.value.Attachment; t != nil && t.InstanceID == instanceID {
			out = append(out, e.value)
		}
	}
	return out
}

func attachVolume(c *call) (any, error) {
	p := c.params
	volumeID, instanceID, device := p.needID("VolumeId", "volume"), p.needID("InstanceId", "instance"), p.need("Device")
	if device != "" && !deviceNames.MatchString(device) {
		p.wrong(fail("InvalidParameterValue", "Value (%s) for parameter device is invalid. %s is not a valid EBS device name.", device, device))
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	if err := c.authorize(c.resourceTarget("volume", volumeID), c.resourceTarget("instance", instanceID)); err != nil {
		return nil, err
	}
	a := c.account
	a.mu.Lock()
	defer a.mu.Unlock()
	stuck, err := a.attachable(c, volumeID, instanceID, device)
	if err != nil {
		return nil, err
	}
	a.setVolume(volumeID, func(v *Volume) {
		v.State = "in-use"
		v.Attachment = &Attachment{InstanceID: instanceID, Device: device, State: "attaching", Time: time.Now()}
	})
	c.disk.Stuck = c.disk.Stuck || stuck
	a.attach(volumeID, c.disk)
	v, _ := a.volumes.get(volumeID)
	return &struct {
		meta
		attachmentXML
	}{attachmentXML: renderAttachment(v)}, nil
}

// attachable applies the rules of AttachVolume. mu is held.
func (a *Account) attachable(c *call, volumeID, instanceID, device string) (stuck bool, err error) {
	v, volumeKnown := a.volumes.get(volumeID)
	i, instanceKnown := a.instances.get(instanceID)
	switch {
	case !instanceKnown || !c.there("instance", instanceID):
		return false, notFound("instance", instanceID)
	case !volumeKnown || !c.there("volume", volumeID):
		return false, notFound("volume", volumeID)
	case i.State != "running" && i.State != "stopped": // row 1: dstack #3603, ansible-collections/amazon.aws #497
		return false, fail("IncorrectState", "Instance '%s' is not 'running'.", instanceID)
	case v.Zone != i.Zone: // row 18: portworx #42
		return false, fail("InvalidVolume.ZoneMismatch",
			"The volume '%s' is not in the same availability zone as instance '%s'", volumeID, instanceID)
	case v.Attachment != nil: // "You can't attach an EBS volume that is already attached" (error code VolumeInUse)
		return false, fail("VolumeInUse", "%s is already attached to an instance", volumeID)
	case v.State != "available": // row 2: kubernetes #71750; wording: kops #3235
		return false, fail("IncorrectState", "%s is not 'available'.", volumeID)
	}
	others := a.attachedTo(instanceID, time.Now())
	for _, o := range others {
		switch o.Attachment.Device {
		case device: // row 7: CSI device_names
			return false, fail("InvalidParameterValue", "Invalid value '%s' for unixDevice. Attachment point %s is already in use", device, device)
		case alias(device): // row 7: accepted, but the guest never gets it (etcd-manager #217)
			stuck = true
		}
	}
	limit, ok := a.opts.AttachLimits[i.Type]
	if !ok {
		limit = 27
	}
	if len(others) >= limit { // row 17: CSI #1163; wording: CSI #2500
		return false, fail("AttachmentLimitExceeded",
			"You may attach up to %d devices for this instance type. Please use a larger instance size to attach more volumes.", limit)
	}
	return stuck, nil
}

// attach lets an accepted AttachVolume come true. mu is held.
func (a *Account) attach(volumeID string, fault DiskFault) {
	v, _ := a.volumes.get(volumeID)
	spec := AttachSpec{VolumeID: volumeID, InstanceID: v.Attachment.InstanceID,
		DeviceName: v.Attachment.Device, SizeZero: fault.SizeZero > 0, Serial: fault.Serial}
	deviceAfter, stateAfter := a.sample(a.opts.Latency.Device), a.sample(a.opts.Latency.Attached)
	deviceAfter = min(deviceAfter, stateAfter) + fault.Late
	d := a.disks[volumeID]
	ctx, cancel := context.WithCancel(a.ctx)
	run := &attaching{cancel, make(chan struct{})}
	d.attach = run
	a.spawn(func(context.Context) {
		defer close(run.done)
		defer cancel()
		if fault.Stuck {
			return
		}
		start := time.Now()
		show := func() {
			if fault.Never || !pause(ctx, deviceAfter-time.Since(start)) {
				return
			}
			err := a.onInstance(ctx, d, spec.InstanceID, func() error { return a.opts.Hardware.Attach(ctx, spec) })
			if err != nil && ctx.Err() == nil {
				a.hardwareTrouble("attach volume", volumeID, err)
			}
		}
		say := func() {
			if !pause(ctx, stateAfter-time.Since(start)) {
				return
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			a.setAttachment(volumeID, spec.InstanceID, "attaching", "attached")
		}
		if deviceAfter <= stateAfter {
			show()
			say()
		} else {
			say()
			show()
		}
		if fault.SizeZero > 0 { // the same disk again, now with its size
			spec.SizeZero = false
			deviceAfter += fault.SizeZero
			show()
		}
	})
}

// onInstance does something with a disk and an instance, when nothing else goes on with either; not
// once the machine is gone.
func (a *Account) onInstance(ctx context.Context, d *disk, instanceID string, f func() error) error {
	a.mu.Lock()
	m := a.machines[instanceID]
	a.mu.Unlock()
	if m == nil {
		return nil
	}
	return m.lane.do(ctx, func() error {
		if !m.exists { // not there yet, or terminated
			return nil
		}
		return d.lane.do(ctx, f)
	})
}

// setAttachment moves an attachment from one state to another, if it is still the same. mu is held.
func (a *Account) setAttachment(volumeID, instanceID, from, to string) {
	v, ok := a.volumes.get(volumeID)
	if !ok || v.Attachment == nil || v.Attachment.InstanceID != instanceID || v.Attachment.State != from {
		return
	}
	next := *v.Attachment
	next.State = to
	a.setVolume(volumeID, func(v *Volume) { v.Attachment = &next })
}

func detachVolume(c *call) (any, error) {
	p := c.params
	volumeID, instanceID := p.needID("VolumeId", "volume"), p.id("InstanceId", "instance")
	device, force := p.str("Device"), p.boolean("Force", false)
	if err := p.end(); err != nil {
		return nil, err
	}
	a := c.account
	a.mu.Lock()
	v, ok := a.volumes.get(volumeID)
	a.mu.Unlock()
	targets := []target{c.resourceTarget("volume", volumeID)}
	if instanceID != "" {
		targets = append(targets, c.resourceTarget("instance", instanceID))
	} else if ok && v.Attachment != nil {
		targets = append(targets, c.resourceTarget("instance", v.Attachment.InstanceID))
	}
	if err := c.authorize(targets...); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	v, ok = a.volumes.get(volumeID)
	if !ok || !c.there("volume", volumeID) {
		return nil, notFound("volume", volumeID)
	}
	t := v.Attachment
	switch {
	case t == nil: // wording: CSI #1801
		return nil, fail("IncorrectState", "Volume '%s' is in the '%s' state.", volumeID, v.State)
	case instanceID != "" && t.InstanceID != instanceID, device != "" && t.Device != device:
		return nil, fail("InvalidAttachment.NotFound",
			"The volume '%s' is not attached to instance '%s' as device '%s'.", volumeID, instanceID, device)
	case (t.State == "detaching" || t.State == "busy") && !force:
		return nil, fail("IncorrectState", "Volume '%s' is in the '%s' state.", volumeID, t.State)
	}
	if i, _ := a.instances.get(t.InstanceID); v.Root && i.State != "stopped" { // error code OperationNotPermitted
		return nil, fail("OperationNotPermitted", "Unable to detach root volume '%s' from instance '%s'", volumeID, t.InstanceID)
	}
	next := *t
	next.State = "detaching"
	a.setVolume(volumeID, func(v *Volume) { v.Attachment = &next })
	a.detach(volumeID, force)
	v, _ = a.volumes.get(volumeID)
	return &struct {
		meta
		attachmentXML
	}{attachmentXML: renderAttachment(v)}, nil
}

// detach lets an accepted DetachVolume come true. mu is held.
func (a *Account) detach(volumeID string, force bool) {
	v, _ := a.volumes.get(volumeID)
	instanceID, d, latency := v.Attachment.InstanceID, a.disks[volumeID], a.sample(a.opts.Latency.Detach)
	before := d.attach
	a.spawn(func(ctx context.Context) {
		if before != nil { // a detach may overtake an attach that is stuck
			before.cancel()
			<-before.done
		}
		if !pause(ctx, latency) {
			return
		}
		for !v.Root {
			err := a.onInstance(ctx, d, instanceID, func() error { return a.opts.Hardware.Detach(ctx, volumeID, instanceID, force) })
			if !errors.Is(err, ErrBusy) {
				if err != nil {
					a.hardwareTrouble("detach volume", volumeID, err)
				}
				break
			}
			a.mu.Lock()
			a.setAttachment(volumeID, instanceID, "detaching", "busy")
			a.mu.Unlock()
			if !pause(ctx, busyRetry) {
				return
			}
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		now, ok := a.volumes.get(volumeID)
		if ok && now.Attachment != nil && now.Attachment.InstanceID == instanceID &&
			slices.Contains([]string{"detaching", "busy"}, now.Attachment.State) {
			a.setVolume(volumeID, func(v *Volume) { v.State, v.Attachment = "available", nil })
		}
	})
}

// otherAttributes are those of ModifyInstanceAttribute that the lab authorizes, by the parameter of
// the request, with what EC2 calls each in ec2:Attribute: the parameter's name, as a DryRun on a
// live instance shows it. Of these it changes UserData only.
var otherAttributes = map[string]string{
	"UserData.Value": "UserData", "InstanceType.Value": "InstanceType", "DisableApiTermination.Value": "DisableApiTermination",
	"DisableApiStop.Value": "DisableApiStop", "InstanceInitiatedShutdownBehavior.Value": "InstanceInitiatedShutdownBehavior",
	"SourceDestCheck.Value": "SourceDestCheck", "EbsOptimized": "EbsOptimized", "EbsOptimized.Value": "EbsOptimized",
}

// modifyOther is ModifyInstanceAttribute for anything but block devices (row 40).
func modifyOther(c *call, instanceID, parameter string) (any, error) {
	value := c.params.str(parameter)
	var data []byte
	if parameter == "UserData.Value" {
		data = c.params.base64(parameter)
	}
	if err := c.params.end(); err != nil {
		return nil, err
	}
	instance := c.resourceTarget("instance", instanceID)
	instance.conditions["ec2:Attribute"] = one(otherAttributes[parameter])
	instance.conditions["ec2:Attribute/"+otherAttributes[parameter]] = one(value)
	if err := c.authorize(instance); err != nil {
		return nil, err
	}
	a := c.account
	a.mu.Lock()
	defer a.mu.Unlock()
	i, ok := a.instances.get(instanceID)
	switch {
	case !ok || !c.there("instance", instanceID):
		return nil, notFound("instance", instanceID)
	case parameter != "UserData.Value":
		return nil, fail("UnsupportedOperation", "The lab does not change %s.", otherAttributes[parameter])
	case i.State != "stopped": // "To modify some attributes, the instance must be stopped" (ModifyInstanceAttribute)
		return nil, fail("IncorrectInstanceState", "The instance '%s' is not in the 'stopped' state.", instanceID)
	}
	a.setInstance(instanceID, func(i *Instance) { i.UserData = data })
	return &done{Return: true}, nil
}

// modifyInstanceAttribute changes DeleteOnTermination in the block device mapping. Instance and
// volume are authorized both (Service Authorization Reference: the action has the resource types
// instance and volume).
func modifyInstanceAttribute(c *call) (any, error) {
	p := c.params
	instanceID := p.needID("InstanceId", "instance")
	for parameter := range otherAttributes {
		if p.has(parameter) {
			return modifyOther(c, instanceID, parameter)
		}
	}
	wanted, named := map[string]bool{}, map[string]string{}
	for _, m := range p.each("BlockDeviceMapping") {
		device := m.need("DeviceName")
		wanted[device] = m.boolean("Ebs.DeleteOnTermination", true)
		named[device] = m.id("Ebs.VolumeId", "volume")
	}
	if len(wanted) == 0 {
		p.wrong(fail("InvalidParameterCombination", "No attributes specified."))
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	a := c.account
	instance := c.resourceTarget("instance", instanceID)
	instance.conditions["ec2:Attribute"] = one("BlockDeviceMappings")
	targets := []target{instance}
	for _, device := range sortedKeys(wanted) {
		id := named[device]
		a.mu.Lock()
		attached := a.attachedTo(instanceID, c.at)
		a.mu.Unlock()
		if at := slices.IndexFunc(attached, func(v Volume) bool { return v.Attachment.Device == device }); id == "" && at >= 0 {
			id = attached[at].ID
		}
		if id != "" {
			targets = append(targets, c.resourceTarget("volume", id))
		}
	}
	if err := c.authorize(targets...); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !c.there("instance", instanceID) {
		return nil, notFound("instance", instanceID)
	}
	change := map[string]bool{} // by volume
	for device, deletes := range wanted {
		// The mapping follows the attachment with the lag of any other read.
		at := slices.IndexFunc(a.attachedTo(instanceID, c.at), func(v Volume) bool { return v.Attachment.Device == device })
		if at < 0 {
			return nil, fail("InvalidInstanceAttributeValue", "No device is currently mapped at %s", device)
		}
		change[a.attachedTo(instanceID, c.at)[at].ID] = deletes
	}
	for id, deletes := range change {
		v, ok := a.volumes.get(id)
		if !ok || v.Attachment == nil || v.Attachment.InstanceID != instanceID {
			continue // detached since the moment that this call is served as of
		}
		next := *v.Attachment
		next.DeleteOnTermination = deletes
		a.setVolume(id, func(v *Volume) { v.Attachment = &next })
	}
	return &done{Return: true}, nil
}
