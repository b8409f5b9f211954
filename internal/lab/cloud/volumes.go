package cloud

import (
	"context"
	"errors"
	"maps"
	"net/url"
	"slices"
	"time"
)

// Volume is an EBS volume. Values are never changed: the account puts new ones.
type Volume struct {
	ID                 string
	State              string // creating, available, in-use, deleting, error
	Zone               string
	Type               string
	SnapshotID         string
	SizeGiB            int32
	IOPS, Throughput   int32
	InitializationRate int32
	Encrypted          bool
	KMSKeyID           string
	Created            time.Time
	Tags               map[string]string
	Attachment         *Attachment // nil when it is attached to nothing
	Root               bool        // the root volume of an instance: a record only, Hardware does not know it
}

// Attachment ties a volume to an instance.
type Attachment struct {
	InstanceID          string
	Device              string
	State               string // attaching, attached, detaching, busy
	Time                time.Time
	DeleteOnTermination bool
}

// disk is what goes on with a volume.
type disk struct {
	lane   lane
	loaded []loaded   // what DescribeVolumeStatus has seen of late, and the beginning
	attach *attaching // the attach that goes on, or the last one
	unmade bool       // a volume of a launch that Hardware does not know yet; only touched in the lane
}

// clientToken is a request that must not be done twice.
type clientToken struct {
	request string // its parameters
	id      string // what it made
	at      time.Time
}

// tokenLife is how long a client token is remembered (row 4: about 12 hours).
const tokenLife = 12 * time.Hour

// setVolume changes a volume. mu is held.
func (a *Account) setVolume(id string, change func(*Volume)) {
	v, ok := a.volumes.get(id)
	if !ok {
		return
	}
	change(&v)
	a.volumes.put(id, v)
	a.notify()
}

// dropVolume makes a volume not found. mu is held.
func (a *Account) dropVolume(id string) {
	a.volumes.drop(id)
	delete(a.disks, id)
	a.notify()
}

// hardwareTrouble logs what Hardware could not do, unless the account is being closed.
func (a *Account) hardwareTrouble(doing, id string, err error) {
	if a.ctx.Err() == nil {
		a.log.Error("hardware failed", "doing", doing, "id", id, "error", err)
	}
}

// createVolumeRequest reads a CreateVolume request.
func createVolumeRequest(p params) (v Volume, token string) {
	v = Volume{
		Zone:               p.need("AvailabilityZone"),
		SnapshotID:         p.id("SnapshotId", "snapshot"),
		Type:               p.str("VolumeType"),
		SizeGiB:            p.number("Size", 0, 1, 65536),
		IOPS:               p.number("Iops", 0, 100, 256000),
		Throughput:         p.number("Throughput", 0, 125, 2000),
		InitializationRate: p.number("VolumeInitializationRate", 0, 100, 300),
		Encrypted:          p.boolean("Encrypted", false),
		KMSKeyID:           p.str("KmsKeyId"),
		Tags:               p.tagSpecification("volume")["volume"],
	}
	token = p.str("ClientToken")
	if v.Type == "" {
		v.Type = "gp2" // "Default: gp2" (CreateVolume, VolumeType)
	}
	_, _, known := volumeSizes(v.Type)
	switch {
	case !known:
		p.wrong(fail("UnknownVolumeType", "Unsupported volume type '%s' for volume creation.", v.Type))
	case v.SizeGiB == 0 && v.SnapshotID == "":
		p.wrong(fail("MissingParameter", "The request must contain the parameter size/snapshot"))
	case v.Throughput != 0 && v.Type != "gp3":
		p.wrong(fail("InvalidParameterCombination", "throughput can only be specified for volumeType gp3."))
	case v.IOPS != 0 && v.Type != "gp3" && v.Type != "io1" && v.Type != "io2":
		p.wrong(fail("InvalidParameterCombination", "The parameter iops is not supported for %s volumes.", v.Type))
	case v.IOPS == 0 && (v.Type == "io1" || v.Type == "io2"):
		p.wrong(fail("MissingParameter", "The request must contain the parameter iops"))
	case v.InitializationRate != 0 && v.SnapshotID == "":
		// "This parameter is supported only for volumes created from snapshots" (CreateVolume,
		// VolumeInitializationRate).
		p.wrong(fail("InvalidParameterCombination", "VolumeInitializationRate can only be specified for volumes created from a snapshot."))
	case v.KMSKeyID != "" && !v.Encrypted: // CreateVolume, KmsKeyId
		p.wrong(fail("InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted to be set."))
	case len(token) > 64:
		p.wrong(fail("InvalidClientToken", "Client tokens must be at most 64 ASCII characters"))
	}
	if v.Type == "gp3" && v.IOPS == 0 {
		v.IOPS = gp3IOPS
	}
	if v.Type == "gp3" && v.Throughput == 0 {
		v.Throughput = gp3Throughput
	}
	return v, token
}

func createVolume(c *call) (any, error) {
	v, token := createVolumeRequest(c.params)
	if err := c.params.end(); err != nil {
		return nil, err
	}
	if err := c.authorizeTagging("volume", v.Tags); err != nil {
		return nil, err
	}
	conditions := map[string][]string{
		"ec2:AvailabilityZone": {v.Zone},
		"ec2:Encrypted":        truth(v.Encrypted),
		"ec2:VolumeType":       {v.Type},
	}
	if v.SizeGiB != 0 {
		conditions["ec2:VolumeSize"] = digits(v.SizeGiB)
	}
	if v.IOPS != 0 {
		conditions["ec2:VolumeIops"] = digits(v.IOPS)
	}
	if v.Throughput != 0 {
		conditions["ec2:VolumeThroughput"] = digits(v.Throughput)
	}
	targets := []target{}
	if v.SnapshotID != "" {
		conditions["ec2:ParentSnapshot"] = []string{c.account.arn("snapshot", v.SnapshotID)}
		targets = append(targets, c.resourceTarget("snapshot", v.SnapshotID))
	}
	if err := c.authorize(append(targets, c.newTarget("volume", v.Tags, conditions))...); err != nil {
		return nil, err
	}
	a := c.account
	a.mu.Lock()
	defer a.mu.Unlock()
	if old, found, err := a.retried(c, token); err != nil || found {
		v, _ := a.volumes.get(old)
		return &createVolumeAnswer{volumeXML: renderVolume(v)}, err
	}
	if !slices.Contains(a.opts.Zones, v.Zone) {
		return nil, fail("InvalidZone.NotFound", "The zone '%s' does not exist.", v.Zone)
	}
	if err := a.fromSnapshot(func(id string) bool { return c.there("snapshot", id) }, &v); err != nil {
		return nil, err
	}
	a.encrypt(&v)
	if low, high, _ := volumeSizes(v.Type); v.SizeGiB < low || v.SizeGiB > high {
		return nil, fail("InvalidParameterValue",
			"Volume of %dGiB is invalid; sizes of %s volumes are %d to %d GiB.", v.SizeGiB, v.Type, low, high)
	}
	if err := v.checkIOPS(); err != nil {
		return nil, err
	}
	v.ID, v.State, v.Created = a.newID("vol-"), "creating", time.Now()
	a.remember(c, token, v.ID)
	c.made = v.ID
	a.volumes.put(v.ID, v)
	a.disks[v.ID] = &disk{lane: newLane()}
	a.notify()
	a.fill(v, c.disk)
	return &createVolumeAnswer{volumeXML: renderVolume(v)}, nil
}

// AllowKeys replaces Options.KMSKeys: a key policy that was changed.
func (a *Account) AllowKeys(keys ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.opts.KMSKeys = keys
}

// fromSnapshot completes a new volume with what it inherits from its snapshot, if that is there for
// whoever asks. mu is held.
func (a *Account) fromSnapshot(there func(id string) bool, v *Volume) error {
	if v.SnapshotID == "" {
		return nil
	}
	s, ok := a.snapshots.get(v.SnapshotID)
	if !ok || !there(v.SnapshotID) {
		return notFound("snapshot", v.SnapshotID)
	}
	if s.State != "completed" { // velero #1799 (row 19)
		return fail("IncorrectState", "Snapshot is in invalid state - %s", s.State)
	}
	if v.SizeGiB == 0 {
		v.SizeGiB = s.SizeGiB // "the default is the snapshot size" (CreateVolume, Size)
	}
	if v.SizeGiB < s.SizeGiB {
		return fail("InvalidParameterValue", "Snapshot '%s' is larger than the requested volume size of %dGiB.", s.ID, v.SizeGiB)
	}
	if s.Encrypted { // "Volumes that are created from encrypted snapshots are also automatically encrypted" (CreateVolume)
		v.Encrypted = true
		if v.KMSKeyID == "" {
			v.KMSKeyID = s.KMSKeyID
		}
	}
	return nil
}

// retried looks a client token up: the same request again is answered as before, another one with
// the same token is an IdempotentParameterMismatch, and so is one whose volume is gone by now (EC2
// developer guide, "Ensuring idempotency"; row 4; crossplane-contrib/provider-aws #1858). mu is
// held.
func (a *Account) retried(c *call, token string) (id string, found bool, err error) {
	old, ok := a.tokens[c.action+" "+token]
	if token == "" || !ok || time.Since(old.at) > tokenLife {
		return "", false, nil
	}
	if old.request != requestOf(c.params.form) {
		return "", false, fail("IdempotentParameterMismatch",
			"Parameters on this idempotent request are inconsistent with parameters used in previous request(s)")
	}
	gone := false
	switch kindOf(old.id) {
	case "volume":
		v, there := a.volumes.get(old.id)
		gone = !there || v.State == "deleting"
	case "instance": // RunInstances answers with the terminated instance as long as it is visible
		i, there := a.instances.get(old.id)
		gone = !there || a.forgotten(i)
	}
	if gone {
		return "", false, fail("IdempotentParameterMismatch",
			"The client token you have provided is associated with a resource that is already deleted. Please use a different client token.")
	}
	return old.id, true, nil
}

// remember burns a client token. mu is held.
func (a *Account) remember(c *call, token, id string) {
	if token != "" {
		a.tokens[c.action+" "+token] = clientToken{requestOf(c.params.form), id, time.Now()}
	}
}

// requestOf renders the parameters that make two requests the same.
func requestOf(form url.Values) string {
	same := maps.Clone(form)
	delete(same, "ClientToken")
	delete(same, "DryRun")
	return same.Encode()
}

// fill makes the disk behind a new volume. mu is held.
func (a *Account) fill(v Volume, fault DiskFault) {
	d := a.disks[v.ID]
	latency := a.sample(a.opts.Latency.Volume)
	vanish := fault.Vanish
	if vanish == 0 && v.KMSKeyID != "" && !slices.Contains(a.opts.KMSKeys, v.KMSKeyID) {
		vanish = max(latency, 1) // row 3
	}
	filled := func() {}
	if image := a.images[v.SnapshotID]; image != nil {
		image.Add(1) // DeleteSnapshot waits for it
		filled = image.Done
	}
	a.spawn(func(ctx context.Context) {
		start := time.Now()
		if vanish > 0 {
			filled()
			pause(ctx, vanish)
			a.mu.Lock()
			defer a.mu.Unlock()
			a.dropVolume(v.ID)
			return
		}
		err := d.lane.do(ctx, func() error { return a.opts.Hardware.CreateVolume(ctx, v.ID, v.SizeGiB, v.SnapshotID) })
		filled()
		if err != nil {
			a.hardwareTrouble("create volume", v.ID, err)
		}
		if fault.Error {
			err = errors.New("a fault asked for it")
		}
		if !pause(ctx, latency-time.Since(start)) {
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.setVolume(v.ID, func(v *Volume) {
			v.State = "available"
			if err != nil {
				v.State = "error"
			}
		})
	})
}

func deleteVolume(c *call) (any, error) {
	id := c.params.needID("VolumeId", "volume")
	if err := c.params.end(); err != nil {
		return nil, err
	}
	if err := c.authorize(c.resourceTarget("volume", id)); err != nil {
		return nil, err
	}
	a := c.account
	a.mu.Lock()
	defer a.mu.Unlock()
	v, ok := a.volumes.get(id)
	switch {
	case !ok || !c.there("volume", id):
		return nil, notFound("volume", id)
	case v.Attachment != nil:
		return nil, fail("VolumeInUse", "Volume %s is currently attached to %s", id, v.Attachment.InstanceID)
	case v.State != "available" && v.State != "error": // "The volume must be in the available state" (DeleteVolume)
		return nil, fail("IncorrectState", "The volume '%s' is in the '%s' state.", id, v.State)
	}
	a.erase(id)
	return &done{Return: true}, nil
}

// erase deletes a volume that is attached to nothing. mu is held.
func (a *Account) erase(id string) {
	v, _ := a.volumes.get(id)
	d, latency := a.disks[id], a.sample(a.opts.Latency.DeleteVolume)
	a.setVolume(id, func(v *Volume) { v.State, v.Attachment = "deleting", nil })
	a.spawn(func(ctx context.Context) {
		if !pause(ctx, latency) {
			return
		}
		if !v.Root {
			err := d.lane.do(ctx, func() error {
				if d.unmade {
					return nil
				}
				return a.opts.Hardware.DeleteVolume(ctx, id)
			})
			if err != nil {
				a.hardwareTrouble("delete volume", id, err)
			}
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.dropVolume(id)
	})
}
