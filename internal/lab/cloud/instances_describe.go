package cloud

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// instanceFields are the filters of DescribeInstances. at is the moment that attachments are shown
// as of; mu is held while they are used.
func (a *Account) instanceFields(at time.Time) fields[Instance] {
	mapped := func(get func(Volume) string) func(Instance) []string {
		return func(i Instance) []string {
			var out []string
			for _, v := range a.attachedTo(i.ID, at) {
				out = append(out, get(v))
			}
			return out
		}
	}
	return fields[Instance]{
		"instance-id":                      func(i Instance) []string { return one(i.ID) },
		"instance-state-name":              func(i Instance) []string { return one(i.State) },
		"instance-state-code":              func(i Instance) []string { return one(fmt.Sprint(renderState(i.State).Code)) },
		"instance-type":                    func(i Instance) []string { return one(i.Type) },
		"availability-zone":                func(i Instance) []string { return one(i.Zone) },
		"image-id":                         func(i Instance) []string { return one(i.ImageID) },
		"key-name":                         func(i Instance) []string { return one(i.KeyName) },
		"private-ip-address":               func(i Instance) []string { return one(i.Address.String()) },
		"reservation-id":                   func(i Instance) []string { return one(i.Reservation) },
		"block-device-mapping.volume-id":   mapped(func(v Volume) string { return v.ID }),
		"block-device-mapping.device-name": mapped(func(v Volume) string { return v.Attachment.Device }),
		"block-device-mapping.status":      mapped(func(v Volume) string { return v.Attachment.State }),
	}
}

func describeInstances(c *call) (any, error) {
	p, a := c.params, c.account
	ids, filters := p.ids("InstanceId", "instance"), p.filters("Filter", "Value")
	max, token := p.number("MaxResults", 0, 5, 1000), p.str("NextToken")
	p.boolean("IncludeManagedResources", false) // the lab has none
	if err := p.end(); err != nil {
		return nil, err
	}
	// "You cannot specify this parameter and the instance IDs parameter in the same request"
	// (MaxResults).
	if len(ids) > 0 && (max > 0 || token != "") {
		return nil, fail("InvalidParameterCombination", "The parameter instancesSet cannot be used with the parameter maxResults")
	}
	known := a.instanceFields(c.at)
	if err := check(filters, known); err != nil {
		return nil, err
	}
	if err := c.authorize(target{arn: "*"}); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range ids {
		if i, ok := a.instances.getAsOf(id, c.at); !ok || a.forgotten(i) {
			return nil, notFound("instance", id)
		}
	}
	list, next, err := page(a.instances.list(c.at), max, token)
	if err != nil {
		return nil, err
	}
	out := struct {
		meta
		Reservations items[reservationXML] `xml:"reservationSet"`
		NextToken    string                `xml:"nextToken,omitempty"`
	}{NextToken: next}
	for _, e := range list {
		i := e.value
		if a.forgotten(i) || len(ids) > 0 && !slices.Contains(ids, i.ID) || !matches(filters, known, i, i.Tags) {
			continue
		}
		all := &out.Reservations.Items
		if n := len(*all); n == 0 || (*all)[n-1].ReservationID != i.Reservation {
			*all = append(*all, reservationXML{ReservationID: i.Reservation, OwnerID: a.opts.AccountID})
		}
		last := &(*all)[len(*all)-1]
		last.Instances.Items = append(last.Instances.Items, a.renderInstance(i, c.at))
	}
	return &out, nil
}

type reservationXML struct {
	ReservationID string             `xml:"reservationId"`
	OwnerID       string             `xml:"ownerId"`
	Instances     items[instanceXML] `xml:"instancesSet"`
}

type stateXML struct {
	Code int    `xml:"code"`
	Name string `xml:"name"`
}

// renderState gives the code of a state (InstanceState, Code).
func renderState(name string) stateXML {
	codes := map[string]int{"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
	return stateXML{codes[name], name}
}

type instanceXML struct {
	InstanceID       string            `xml:"instanceId"`
	ImageID          string            `xml:"imageId"`
	State            stateXML          `xml:"instanceState"`
	PrivateDNSName   string            `xml:"privateDnsName"`
	Reason           string            `xml:"reason"`
	KeyName          string            `xml:"keyName,omitempty"`
	Type             string            `xml:"instanceType"`
	LaunchTime       string            `xml:"launchTime"`
	Zone             string            `xml:"placement>availabilityZone"`
	Tenancy          string            `xml:"placement>tenancy"`
	PrivateIPAddress string            `xml:"privateIpAddress,omitempty"`
	StateReason      *stateReasonXML   `xml:"stateReason"`
	Architecture     string            `xml:"architecture"`
	RootDeviceType   string            `xml:"rootDeviceType"`
	RootDeviceName   string            `xml:"rootDeviceName"`
	Mappings         items[mappingXML] `xml:"blockDeviceMapping"`
	Virtualization   string            `xml:"virtualizationType"`
	Tags             items[tagXML]     `xml:"tagSet"`
	Hypervisor       string            `xml:"hypervisor"`
	Profile          *profileXML       `xml:"iamInstanceProfile"`
}

type stateReasonXML struct {
	Code    string `xml:"code"`
	Message string `xml:"message"`
}

type profileXML struct {
	ARN string `xml:"arn"`
	ID  string `xml:"id"`
}

type mappingXML struct {
	DeviceName          string `xml:"deviceName"`
	VolumeID            string `xml:"ebs>volumeId"`
	Status              string `xml:"ebs>status"`
	AttachTime          string `xml:"ebs>attachTime"`
	DeleteOnTermination bool   `xml:"ebs>deleteOnTermination"`
}

// renderInstance renders an instance with its volumes as of a moment. mu is held.
func (a *Account) renderInstance(i Instance, at time.Time) instanceXML {
	out := instanceXML{
		InstanceID: i.ID, ImageID: i.ImageID, State: renderState(i.State),
		KeyName: i.KeyName, Type: i.Type, LaunchTime: wireTime(i.Launched), Zone: i.Zone,
		Tenancy: "default", Architecture: "x86_64", RootDeviceType: "ebs",
		RootDeviceName: rootDevice, Virtualization: "hvm", Tags: tagSet(i.Tags), Hypervisor: "xen",
	}
	if i.Address.IsValid() { // a terminated instance has no address
		out.PrivateIPAddress = i.Address.String()
		out.PrivateDNSName = privateName(i, a.opts.Region)
	}
	if i.Reason != "" {
		out.StateReason = &stateReasonXML{i.Reason, i.Reason + ": the lab was told so"}
	}
	if i.Role != "" {
		out.Profile = &profileXML{a.profileARN(i.Role), "AIPA" + strings.ToUpper(i.Role)}
	}
	for _, v := range a.attachedTo(i.ID, at) {
		if t := v.Attachment; i.State != "terminated" {
			out.Mappings.Items = append(out.Mappings.Items, mappingXML{t.Device, v.ID, t.State, wireTime(t.Time), t.DeleteOnTermination})
		}
	}
	return out
}

func privateName(i Instance, region string) string {
	name := "ip-" + strings.ReplaceAll(i.Address.String(), ".", "-")
	if region == "us-east-1" {
		return name + ".ec2.internal"
	}
	return name + "." + region + ".compute.internal"
}

func (a *Account) profileARN(role string) string {
	return fmt.Sprintf("arn:aws:iam::%s:instance-profile/%s", a.opts.AccountID, role)
}
