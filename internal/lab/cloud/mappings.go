package cloud

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Mapping is an EBS volume that EC2 makes and attaches with a launch (RunInstances and
// RequestLaunchTemplateData, BlockDeviceMapping; EbsBlockDevice). One that names the root device
// changes the root volume.
type Mapping struct {
	Device             string // /dev/xvdb
	SnapshotID         string
	Type               string // default gp2 (EbsBlockDevice, VolumeType: as CreateVolume)
	SizeGiB            int32  // default: that of the snapshot
	IOPS, Throughput   int32
	InitializationRate int32
	Encrypted          bool
	KMSKeyID           string

	// DeleteOnTermination is false unless it is asked for: a volume that is not the root "persists by
	// default" (EC2 User Guide, "Preserve data when an instance is terminated").
	DeleteOnTermination bool
}

// reasonLaunch: "A client error caused the instance to terminate on launch" (EC2 User Guide,
// "Troubleshoot instance launch issues"; a KMS key that may not be used, for one).
const reasonLaunch = "Client.InternalError"

// blockDeviceMappings reads BlockDeviceMapping.N of a request that launches.
func (p params) blockDeviceMappings() []Mapping {
	var out []Mapping
	for _, m := range p.each("BlockDeviceMapping") {
		if m.has("NoDevice") { // "To omit the device from the block device mapping, specify an empty string"
			m.str("DeviceName")
			m.str("NoDevice")
			continue
		}
		out = append(out, Mapping{
			Device: m.need("DeviceName"), SnapshotID: m.id("Ebs.SnapshotId", "snapshot"), Type: m.str("Ebs.VolumeType"),
			SizeGiB: m.number("Ebs.VolumeSize", 0, 1, 65536), IOPS: m.number("Ebs.Iops", 0, 100, 256000),
			Throughput: m.number("Ebs.Throughput", 0, 125, 2000), InitializationRate: m.number("Ebs.VolumeInitializationRate", 0, 100, 300),
			Encrypted: m.boolean("Ebs.Encrypted", false), KMSKeyID: m.str("Ebs.KmsKeyId"),
			DeleteOnTermination: m.boolean("Ebs.DeleteOnTermination", false),
		})
	}
	return out
}

// badMapping is InvalidBlockDeviceMapping ("Error codes for the Amazon EC2 API").
func badMapping(format string, args ...any) error {
	return fail("InvalidBlockDeviceMapping", format, args...)
}

// newRoot is a root volume of an instance, made now. mu is held.
func (a *Account) newRoot(i Instance) Volume {
	now := time.Now()
	return Volume{
		ID: a.newID("vol-"), State: "in-use", Zone: i.Zone, Type: "gp3", SizeGiB: 8, IOPS: gp3IOPS, Throughput: gp3Throughput,
		Created: now, Root: true, SnapshotID: "snap-00000000000000001",
		Attachment: &Attachment{InstanceID: i.ID, Device: rootDevice, State: "attached", Time: now, DeleteOnTermination: true},
	}
}

// mapped makes the volumes of a launch, without putting them anywhere: nothing happens when one of
// them cannot be. The first is the root. mu is held.
func (a *Account) mapped(spec RunSpec, i Instance) ([]Volume, error) {
	root := a.newRoot(i)
	root.Tags = maps.Clone(spec.VolumeTags)
	volumes, names := []Volume{root}, map[string]bool{rootDevice: true, alias(rootDevice): true}
	for _, m := range spec.Mappings {
		if m.Device == rootDevice {
			if m.SnapshotID != "" && m.SnapshotID != root.SnapshotID { // "snapshotId cannot be modified on root device"
				return nil, badMapping("snapshotId cannot be modified on root device")
			}
			volumes[0].Attachment.DeleteOnTermination = m.DeleteOnTermination
			continue
		}
		if names[m.Device] || names[alias(m.Device)] {
			return nil, badMapping("The device '%s' is used in more than one block-device mapping", m.Device)
		}
		names[m.Device] = true
		v, err := a.ofMapping(m, spec, i)
		if err != nil {
			return nil, err
		}
		volumes = append(volumes, v)
	}
	limit, ok := a.opts.AttachLimits[i.Type]
	if !ok {
		limit = 27
	}
	if len(volumes) > limit { // as AttachVolume has it (row 17)
		return nil, fail("AttachmentLimitExceeded", "You may attach up to %d devices for this instance type.", limit)
	}
	return volumes, nil
}

// ofMapping is one volume of a launch. mu is held.
func (a *Account) ofMapping(m Mapping, spec RunSpec, i Instance) (Volume, error) {
	v := Volume{
		ID: a.newID("vol-"), State: "in-use", Zone: i.Zone, Type: m.Type, SnapshotID: m.SnapshotID, SizeGiB: m.SizeGiB,
		IOPS: m.IOPS, Throughput: m.Throughput, InitializationRate: m.InitializationRate, Encrypted: m.Encrypted, KMSKeyID: m.KMSKeyID,
		Created: i.Launched, Tags: maps.Clone(spec.VolumeTags),
		Attachment: &Attachment{
			InstanceID: i.ID, Device: m.Device, State: "attaching", Time: i.Launched, DeleteOnTermination: m.DeleteOnTermination,
		},
	}
	if v.Type == "" {
		v.Type = "gp2"
	}
	low, high, known := volumeSizes(v.Type)
	switch {
	case !deviceNames.MatchString(m.Device):
		return v, fail("InvalidParameterValue", "Value (%s) for parameter device is invalid.", m.Device)
	case !known:
		return v, fail("UnknownVolumeType", "Unsupported volume type '%s' for volume creation.", v.Type)
	case m.SnapshotID == "" && m.SizeGiB == 0: // "You must specify either a snapshot ID or a volume size" (EbsBlockDevice, VolumeSize)
		return v, fail("MissingParameter", "The request must contain the parameter size or snapshotId")
	case m.InitializationRate != 0 && m.SnapshotID == "":
		return v, fail("InvalidParameterCombination", "VolumeInitializationRate can only be specified for volumes created from a snapshot.")
	case m.KMSKeyID != "" && !m.Encrypted:
		return v, fail("InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted to be set.")
	}
	if v.Type == "gp3" && v.IOPS == 0 {
		v.IOPS = gp3IOPS
	}
	if v.Type == "gp3" && v.Throughput == 0 {
		v.Throughput = gp3Throughput
	}
	if err := a.fromSnapshot(func(id string) bool { _, ok := a.snapshots.get(id); return ok }, &v); err != nil {
		return v, err
	}
	a.encrypt(&v)
	if v.SizeGiB < low || v.SizeGiB > high {
		return v, fail("InvalidParameterValue", "Volume of %dGiB is invalid; sizes of %s volumes are %d to %d GiB.", v.SizeGiB, v.Type, low, high)
	}
	return v, v.checkIOPS()
}

// bring makes the disks of a launch, before the machine has power. The end of the launch is the end
// of the whole: all or nothing.
func (a *Account) bring(ctx context.Context, volumes []Volume) ([]AttachSpec, error) {
	var specs []AttachSpec
	for _, v := range volumes {
		a.mu.Lock()
		d := a.disks[v.ID]
		a.mu.Unlock()
		if d == nil {
			return nil, fmt.Errorf("%s is gone", v.ID)
		}
		err := d.lane.do(ctx, func() error {
			d.unmade = false
			return a.opts.Hardware.CreateVolume(ctx, v.ID, v.SizeGiB, v.SnapshotID)
		})
		if err != nil {
			return nil, err
		}
		specs = append(specs, AttachSpec{VolumeID: v.ID, InstanceID: v.Attachment.InstanceID, DeviceName: v.Attachment.Device})
	}
	return specs, nil
}

// lockImages keeps the snapshots of a launch until its disks are made. mu is held.
func (a *Account) lockImages(volumes []Volume) (unlock func()) {
	var locked []func()
	for _, v := range volumes {
		if image := a.images[v.SnapshotID]; image != nil {
			image.Add(1) // DeleteSnapshot waits for it
			locked = append(locked, image.Done)
		}
	}
	return func() {
		for _, f := range locked {
			f()
		}
	}
}

// keyMissing: a volume of the launch is encrypted with a key that may not be used. mu is held.
func (a *Account) keyMissing(volumes []Volume) bool {
	return slices.ContainsFunc(volumes, func(v Volume) bool {
		return v.KMSKeyID != "" && !slices.Contains(a.opts.KMSKeys, v.KMSKeyID)
	})
}

// mappedDevices are the names of the EBS volumes that were attached when the instance was started
// last, but the root's, for the metadata service. mu is held.
func (a *Account) mappedDevices(i Instance) []string {
	var names []string
	for _, v := range a.attachedTo(i.ID, time.Now()) {
		if !v.Root && !v.Attachment.Time.After(i.Launched) {
			names = append(names, v.Attachment.Device)
		}
	}
	slices.Sort(names)
	return names
}
