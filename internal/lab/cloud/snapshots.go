package cloud

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Snapshot is an EBS snapshot. Values are never changed: the account puts new ones.
type Snapshot struct {
	ID          string
	State       string // pending, completed, error
	Progress    int    // percent
	VolumeID    string
	SizeGiB     int32
	Description string
	Encrypted   bool
	KMSKeyID    string
	Started     time.Time
	Completed   time.Time
	Tags        map[string]string
}

// snapshotInterval: "Wait at least 15 seconds between concurrent volume snapshots" (error code
// SnapshotCreationPerVolumeRateExceeded).
const snapshotInterval = 15 * time.Second

// mostPending is how many snapshots of one volume may be pending ("Quotas for Amazon EBS",
// concurrent snapshots per volume: 5; 1 for st1 and sc1).
func mostPending(volumeType string) int {
	if volumeType == "st1" || volumeType == "sc1" {
		return 1
	}
	return 5
}

// setSnapshot changes a snapshot. mu is held.
func (a *Account) setSnapshot(id string, change func(*Snapshot)) {
	s, ok := a.snapshots.get(id)
	if !ok {
		return
	}
	change(&s)
	a.snapshots.put(id, s)
	a.notify()
}

func createSnapshot(c *call) (any, error) {
	p := c.params
	s := Snapshot{VolumeID: p.needID("VolumeId", "volume"),
		Description: p.str("Description"), Tags: p.tagSpecification("snapshot")["snapshot"]}
	if len(s.Description) > 255 { // EBS User Guide, "Create Amazon EBS snapshots"
		p.wrong(fail("InvalidParameterValue", "The description must be at most 255 characters"))
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	if err := c.authorizeTagging("snapshot", s.Tags); err != nil {
		return nil, err
	}
	a := c.account
	parent := map[string][]string{"ec2:ParentVolume": {a.arn("volume", s.VolumeID)}}
	if err := c.authorize(c.resourceTarget("volume", s.VolumeID), c.newTarget("snapshot", s.Tags, parent)); err != nil {
		return nil, err
	}
	d, err := a.snapshotable(c, &s)
	if err != nil {
		return nil, err
	}
	// "Snapshots only capture data that has been written to your EBS volume at the time the
	// snapshot command is issued" (EBS User Guide): Hardware takes the point in time before the
	// answer; what takes long is only its upload.
	err = d.lane.do(a.ctx, func() error { return a.opts.Hardware.CreateSnapshot(a.ctx, s.ID, s.VolumeID) })
	if err != nil {
		a.hardwareTrouble("create snapshot", s.ID, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s.State, s.Started = "pending", time.Now()
	c.made = s.ID
	a.snapshots.put(s.ID, s)
	a.images[s.ID] = &sync.WaitGroup{}
	a.notify()
	a.upload(s, err != nil || c.disk.Error)
	return &struct {
		meta
		snapshotXML
	}{snapshotXML: a.renderSnapshot(s)}, nil
}

// snapshotable applies the rules of CreateSnapshot and completes s.
func (a *Account) snapshotable(c *call, s *Snapshot) (*disk, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	v, ok := a.volumes.get(s.VolumeID)
	switch {
	case !ok || !c.there("volume", s.VolumeID):
		return nil, notFound("volume", s.VolumeID)
	case v.State != "available" && v.State != "in-use", v.Root:
		return nil, fail("IncorrectState", "The volume '%s' is in the '%s' state.", v.ID, v.State)
	}
	pending := 0
	for _, e := range a.snapshots.list(time.Now()) {
		o := e.value
		if o.VolumeID != v.ID || o.State == "completed" { // "an incomplete state, such as error" counts (re:Post, "ebs-snapshot-stuck")
			continue
		}
		if o.State == "pending" && time.Since(o.Started) < snapshotInterval {
			return nil, fail("SnapshotCreationPerVolumeRateExceeded",
				"The maximum per volume CreateSnapshot request rate has been exceeded. Use an increasing or variable sleep interval between requests.")
		}
		pending++
	}
	for _, of := range a.cancelled {
		if of == v.ID {
			pending++
		}
	}
	if pending >= mostPending(v.Type) {
		return nil, fail("ConcurrentSnapshotLimitExceeded", "Maximum allowed in-progress snapshots for a single volume exceeded.")
	}
	s.ID, s.SizeGiB, s.Encrypted, s.KMSKeyID = a.newID("snap-"), v.SizeGiB, v.Encrypted, v.KMSKeyID
	return a.disks[v.ID], nil
}

// upload lets a pending snapshot complete. mu is held.
func (a *Account) upload(s Snapshot, fails bool) {
	const steps = 5
	latency := a.sample(a.opts.Latency.Snapshot)
	a.spawn(func(ctx context.Context) {
		for step := 1; step <= steps; step++ {
			if !pause(ctx, latency/steps) {
				return
			}
			a.mu.Lock()
			a.setSnapshot(s.ID, func(s *Snapshot) {
				switch {
				case fails && step == steps/2:
					s.State = "error"
				case s.State == "pending":
					s.Progress = 100 * step / steps
					if step == steps {
						s.State, s.Completed = "completed", time.Now()
					}
				}
			})
			if step == steps {
				delete(a.cancelled, s.ID)
			}
			a.mu.Unlock()
		}
	})
}

func deleteSnapshot(c *call) (any, error) {
	id := c.params.needID("SnapshotId", "snapshot")
	if err := c.params.end(); err != nil {
		return nil, err
	}
	if err := c.authorize(c.resourceTarget("snapshot", id)); err != nil {
		return nil, err
	}
	a := c.account
	a.mu.Lock()
	defer a.mu.Unlock()
	s, ok := a.snapshots.get(id)
	if !ok || !c.there("snapshot", id) {
		return nil, notFound("snapshot", id)
	}
	if s.State == "pending" { // "must complete before the deletion takes effect" (EBS User Guide, "Delete an Amazon EBS snapshot")
		a.cancelled[id] = s.VolumeID
	}
	a.snapshots.drop(id)
	a.notify()
	image := a.images[id]
	a.spawn(func(ctx context.Context) {
		image.Wait() // volumes that are being filled from it
		if err := a.opts.Hardware.DeleteSnapshot(ctx, id); err != nil {
			a.hardwareTrouble("delete snapshot", id, err)
		}
	})
	return &done{Return: true}, nil
}

// snapshotFields are the filters of DescribeSnapshots.
func (a *Account) snapshotFields() fields[Snapshot] {
	return fields[Snapshot]{
		"snapshot-id": func(s Snapshot) []string { return one(s.ID) },
		"status":      func(s Snapshot) []string { return one(s.State) },
		"volume-id":   func(s Snapshot) []string { return one(s.VolumeID) },
		"volume-size": func(s Snapshot) []string { return digits(s.SizeGiB) },
		"start-time":  func(s Snapshot) []string { return one(wireTime(s.Started)) },
		"progress":    func(s Snapshot) []string { return one(fmt.Sprintf("%d%%", s.Progress)) },
		"encrypted":   func(s Snapshot) []string { return truth(s.Encrypted) },
		"description": func(s Snapshot) []string { return one(s.Description) },
		"owner-id":    func(Snapshot) []string { return one(a.opts.AccountID) },
	}
}

func describeSnapshots(c *call) (any, error) {
	p, a := c.params, c.account
	ids, filters, owners := p.ids("SnapshotId", "snapshot"), p.filters("Filter", "Value"), p.list("Owner")
	max, token := p.number("MaxResults", 0, 5, 1000), p.str("NextToken")
	if err := p.end(); err != nil {
		return nil, err
	}
	if len(ids) > 0 && (max > 0 || token != "") { // aws-sdk-ruby #3028
		return nil, fail("InvalidParameterCombination", "The parameter snapshotSet cannot be used with the parameter maxResults")
	}
	known := a.snapshotFields()
	if err := check(filters, known); err != nil {
		return nil, err
	}
	if err := c.authorize(target{arn: "*"}); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range ids {
		if _, ok := a.snapshots.getAsOf(id, c.at); !ok {
			return nil, notFound("snapshot", id)
		}
	}
	list, next, err := page(a.snapshots.list(c.at), max, token)
	if err != nil {
		return nil, err
	}
	out := struct {
		meta
		Snapshots items[snapshotXML] `xml:"snapshotSet"`
		NextToken string             `xml:"nextToken,omitempty"`
	}{NextToken: next}
	mine := len(owners) == 0 || slices.Contains(owners, "self") || slices.Contains(owners, a.opts.AccountID)
	for _, e := range list {
		if s := e.value; mine && (len(ids) == 0 || slices.Contains(ids, s.ID)) && matches(filters, known, s, s.Tags) {
			out.Snapshots.Items = append(out.Snapshots.Items, a.renderSnapshot(s))
		}
	}
	return &out, nil
}

type snapshotXML struct {
	SnapshotID     string        `xml:"snapshotId"`
	VolumeID       string        `xml:"volumeId"`
	Status         string        `xml:"status"`
	StatusMessage  string        `xml:"statusMessage,omitempty"`
	StartTime      string        `xml:"startTime"`
	CompletionTime string        `xml:"completionTime,omitempty"`
	Progress       string        `xml:"progress"`
	OwnerID        string        `xml:"ownerId"`
	VolumeSize     int32         `xml:"volumeSize"`
	Description    string        `xml:"description"`
	Encrypted      bool          `xml:"encrypted"`
	KMSKeyID       string        `xml:"kmsKeyId,omitempty"`
	StorageTier    string        `xml:"storageTier"`
	Tags           items[tagXML] `xml:"tagSet"`
}

func (a *Account) renderSnapshot(s Snapshot) snapshotXML {
	out := snapshotXML{
		SnapshotID: s.ID, VolumeID: s.VolumeID, Status: s.State, StartTime: wireTime(s.Started), Progress: fmt.Sprintf("%d%%", s.Progress),
		OwnerID: a.opts.AccountID, VolumeSize: s.SizeGiB, Description: s.Description, Encrypted: s.Encrypted, KMSKeyID: s.KMSKeyID,
		StorageTier: "standard", Tags: tagSet(s.Tags),
	}
	if !s.Completed.IsZero() {
		out.CompletionTime = wireTime(s.Completed)
	}
	if s.State == "error" {
		out.StatusMessage = "An internal error has occurred"
	}
	return out
}
