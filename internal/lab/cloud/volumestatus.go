package cloud

import (
	"slices"
	"time"
)

// loaded is how much of a volume had been loaded from its snapshot at a moment, in percent.
type loaded struct {
	at      time.Time
	percent int
}

// initialized is what EC2 says of that. It "can take up to 5 minutes for the volume initialization
// information to be updated" (API reference, VolumeStatusItem): the lab says the oldest that it
// knows of that time, and nothing is loaded when the volume is made. mu is held.
func (a *Account) initialized(v Volume, now loaded) int {
	d, old := a.disks[v.ID], now.at.Add(-a.opts.Latency.Initialized)
	if len(d.loaded) == 0 {
		d.loaded = []loaded{{at: v.Created}}
	}
	d.loaded = append(slices.DeleteFunc(d.loaded, func(l loaded) bool { return l.at.Before(old) }), now)
	return d.loaded[0].percent
}

// describeVolumeStatus: "Volume status checks are automated tests that run every 5 minutes"; before
// the first one the state is insufficient-data (EBS User Guide, "Amazon EBS volume status checks").
func describeVolumeStatus(c *call) (any, error) {
	ids := c.params.ids("VolumeId", "volume")
	max, token := c.params.number("MaxResults", 0, 5, 1000), c.params.str("NextToken")
	c.params.boolean("IncludeManagedResources", false) // the lab has none
	if err := c.params.end(); err != nil {             // the lab knows none of its filters
		return nil, err
	}
	if len(ids) > 0 && (max > 0 || token != "") { // as of DescribeVolumes
		return nil, fail("InvalidParameterCombination", "The parameter volumeSet cannot be used with the parameter maxResults")
	}
	if err := c.authorize(target{arn: "*"}); err != nil {
		return nil, err
	}
	a := c.account
	now := map[string]loaded{} // without mu: Hardware is asked
	for _, v := range a.Volumes() {
		if !v.Root && v.SnapshotID != "" && (len(ids) == 0 || slices.Contains(ids, v.ID)) {
			now[v.ID] = loaded{time.Now(), a.opts.Hardware.Initialized(v.ID)}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	list, next, err := c.volumes(ids, max, token)
	if err != nil {
		return nil, err
	}
	out := struct {
		meta
		Volumes   items[volumeStatusXML] `xml:"volumeStatusSet"`
		NextToken string                 `xml:"nextToken,omitempty"`
	}{NextToken: next}
	for _, e := range list {
		v := e.value
		if len(ids) > 0 && !slices.Contains(ids, v.ID) {
			continue
		}
		is := volumeStatusXML{VolumeID: v.ID, Zone: v.Zone, Status: "ok"}
		if time.Since(v.Created) < a.opts.Latency.Initialized {
			is.Status = "insufficient-data"
		}
		if l, cold := now[v.ID]; cold && a.disks[v.ID] != nil {
			is.Initialization = v.initialization(a.initialized(v, l))
		}
		out.Volumes.Items = append(out.Volumes.Items, is)
	}
	return &out, nil
}

type volumeStatusXML struct {
	VolumeID       string             `xml:"volumeId"`
	Zone           string             `xml:"availabilityZone"`
	Status         string             `xml:"volumeStatus>status"`
	Initialization *initializationXML `xml:"initializationStatusDetails"`
}

type initializationXML struct {
	Type     string `xml:"initializationType"`
	Progress int    `xml:"progress"`
	Seconds  *int64 `xml:"estimatedTimeToCompleteInSeconds"`
}

// initialization renders it: the estimate is "only available for volumes created with Amazon EBS
// Provisioned Rate for Volume Initialization" (API reference, InitializationStatusDetails).
func (v Volume) initialization(percent int) *initializationXML {
	if v.InitializationRate == 0 {
		return &initializationXML{Type: "default", Progress: percent}
	}
	left := int64(100-percent) * int64(v.SizeGiB) << 10 / 100 / int64(v.InitializationRate)
	return &initializationXML{"provisioned-rate", percent, &left}
}
