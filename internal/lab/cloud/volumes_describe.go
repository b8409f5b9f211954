package cloud

import (
	"slices"
	"strconv"
)

// volumeFields are the filters of DescribeVolumes.
func volumeFields() fields[Volume] {
	attachment := func(get func(Attachment) string) func(Volume) []string {
		return func(v Volume) []string {
			if v.Attachment == nil {
				return nil
			}
			return one(get(*v.Attachment))
		}
	}
	return fields[Volume]{
		"volume-id":                        func(v Volume) []string { return one(v.ID) },
		"status":                           func(v Volume) []string { return one(v.State) },
		"availability-zone":                func(v Volume) []string { return one(v.Zone) },
		"create-time":                      func(v Volume) []string { return one(wireTime(v.Created)) },
		"encrypted":                        func(v Volume) []string { return truth(v.Encrypted) },
		"size":                             func(v Volume) []string { return digits(v.SizeGiB) },
		"snapshot-id":                      func(v Volume) []string { return one(v.SnapshotID) },
		"volume-type":                      func(v Volume) []string { return one(v.Type) },
		"attachment.instance-id":           attachment(func(t Attachment) string { return t.InstanceID }),
		"attachment.device":                attachment(func(t Attachment) string { return t.Device }),
		"attachment.status":                attachment(func(t Attachment) string { return t.State }),
		"attachment.attach-time":           attachment(func(t Attachment) string { return wireTime(t.Time) }),
		"attachment.delete-on-termination": attachment(func(t Attachment) string { return strconv.FormatBool(t.DeleteOnTermination) }),
	}
}

func describeVolumes(c *call) (any, error) {
	ids, filters := c.params.ids("VolumeId", "volume"), c.params.filters("Filter", "Value")
	max, token := c.params.number("MaxResults", 0, 5, 1000), c.params.str("NextToken")
	c.params.boolean("IncludeManagedResources", false) // the lab has none
	if err := c.params.end(); err != nil {
		return nil, err
	}
	if len(ids) > 0 && (max > 0 || token != "") { // aws-cli #1976
		return nil, fail("InvalidParameterCombination", "The parameter volumeSet cannot be used with the parameter maxResults")
	}
	known := volumeFields()
	if err := check(filters, known); err != nil {
		return nil, err
	}
	if err := c.authorize(target{arn: "*"}); err != nil {
		return nil, err
	}
	a := c.account
	a.mu.Lock()
	defer a.mu.Unlock()
	list, next, err := c.volumes(ids, max, token)
	if err != nil {
		return nil, err
	}
	out := struct {
		meta
		Volumes   items[volumeXML] `xml:"volumeSet"`
		NextToken string           `xml:"nextToken,omitempty"`
	}{NextToken: next}
	for _, e := range list {
		if v := e.value; (len(ids) == 0 || slices.Contains(ids, v.ID)) && matches(filters, known, v, v.Tags) {
			out.Volumes.Items = append(out.Volumes.Items, renderVolume(v))
		}
	}
	return &out, nil
}

// volumes is a page of all volumes, each of ids being one of them. mu is held.
func (c *call) volumes(ids []string, max int32, token string) (list []entry[Volume], next string, err error) {
	for _, id := range ids {
		if _, ok := c.account.volumes.getAsOf(id, c.at); !ok {
			return nil, "", notFound("volume", id)
		}
	}
	return page(c.account.volumes.list(c.at), max, token)
}

type volumeXML struct {
	VolumeID           string               `xml:"volumeId"`
	Size               int32                `xml:"size"`
	SnapshotID         string               `xml:"snapshotId"`
	Zone               string               `xml:"availabilityZone"`
	Status             string               `xml:"status"`
	CreateTime         string               `xml:"createTime"`
	Attachments        items[attachmentXML] `xml:"attachmentSet"`
	Tags               items[tagXML]        `xml:"tagSet"`
	Type               string               `xml:"volumeType"`
	IOPS               int32                `xml:"iops,omitempty"`
	Throughput         int32                `xml:"throughput,omitempty"`
	InitializationRate int32                `xml:"volumeInitializationRate,omitempty"`
	Encrypted          bool                 `xml:"encrypted"`
	KMSKeyID           string               `xml:"kmsKeyId,omitempty"`
	MultiAttachEnabled bool                 `xml:"multiAttachEnabled"`
}

type createVolumeAnswer struct {
	meta
	volumeXML
}

type attachmentXML struct {
	VolumeID            string `xml:"volumeId"`
	InstanceID          string `xml:"instanceId"`
	Device              string `xml:"device"`
	Status              string `xml:"status"`
	AttachTime          string `xml:"attachTime"`
	DeleteOnTermination bool   `xml:"deleteOnTermination"`
}

func renderVolume(v Volume) volumeXML {
	out := volumeXML{
		VolumeID: v.ID, Size: v.SizeGiB, SnapshotID: v.SnapshotID, Zone: v.Zone,
		Status: v.State, CreateTime: wireTime(v.Created), Tags: tagSet(v.Tags),
		Type: v.Type, IOPS: v.IOPS, Throughput: v.Throughput,
		InitializationRate: v.InitializationRate, Encrypted: v.Encrypted, KMSKeyID: v.KMSKeyID,
	}
	if v.Attachment != nil {
		out.Attachments.Items = []attachmentXML{renderAttachment(v)}
	}
	return out
}

func renderAttachment(v Volume) attachmentXML {
	t := v.Attachment
	return attachmentXML{v.ID, t.InstanceID, t.Device, t.State, wireTime(t.Time), t.DeleteOnTermination}
}
