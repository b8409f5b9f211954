package cloud

import (
	"errors"
	"strings"
	"time"
)

func runInstances(c *call) (any, error) {
	p := c.params
	spec := RunSpec{
		ImageID: p.need("ImageId"), Type: p.str("InstanceType"), Zone: p.str("Placement.AvailabilityZone"), KeyName: p.str("KeyName"),
		UserData: p.base64("UserData"), Role: p.str("IamInstanceProfile.Name"),
	}
	if arn := p.str("IamInstanceProfile.Arn"); arn != "" { // the lab's instance profiles are called like their role
		spec.Role = arn[strings.LastIndex(arn, "/")+1:]
	}
	low, high, token := p.number("MinCount", 0, 1, 1000), p.number("MaxCount", 0, 1, 1000), p.str("ClientToken")
	p.need("MinCount")
	p.need("MaxCount")
	p.str("SubnetId")
	if spec.Type == "" {
		spec.Type = "m1.small" // "Default: m1.small" (RunInstances, InstanceType)
	}
	spec.Hibernation = p.boolean("HibernationOptions.Configured", false)
	spec.MetadataTags = p.str("MetadataOptions.InstanceMetadataTags") == "enabled"
	tags := p.tagSpecification("instance", "volume")
	spec.Tags, spec.VolumeTags, spec.Mappings = tags["instance"], tags["volume"], p.blockDeviceMappings()
	if low > high {
		p.wrong(fail("InvalidParameterCombination", "MinCount must not be more than MaxCount"))
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	for _, kind := range sortedKeys(tags) {
		if err := c.authorizeTagging(kind, tags[kind]); err != nil {
			return nil, err
		}
	}
	a := c.account
	made := c.newTarget("instance", spec.Tags, map[string][]string{"ec2:InstanceType": {spec.Type}})
	if err := c.authorize(made, c.resourceTarget("image", spec.ImageID)); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []Instance
	old, found, err := a.retried(c, token)
	if err != nil {
		return nil, err
	}
	if found {
		first, _ := a.instances.get(old)
		for _, e := range a.instances.list(time.Now()) {
			if e.value.Reservation == first.Reservation {
				list = append(list, e.value)
			}
		}
	}
	reservation := a.newID("r-")
	for !found && int32(len(list)) < high {
		i, err := a.launch(spec, reservation)
		if err != nil {
			if int32(len(list)) >= low {
				break
			}
			for _, i := range list { // all or nothing below MinCount
				a.terminate(i.ID, reasonInternal)
			}
			return nil, err
		}
		list = append(list, i)
	}
	if !found {
		a.remember(c, token, list[0].ID)
		c.made = list[0].ID
	}
	out := struct {
		meta
		reservationXML
	}{reservationXML: reservationXML{ReservationID: list[0].Reservation, OwnerID: a.opts.AccountID}}
	for _, i := range list {
		out.Instances.Items = append(out.Instances.Items, a.renderInstance(i, time.Now()))
	}
	return &out, nil
}

// move serves the calls that change the state of instances: all ids must be there, or nothing
// happens.
func (c *call) move(change func(a *Account, id string) error) (any, error) {
	ids := c.params.ids("InstanceId", "instance")
	if len(ids) == 0 {
		c.params.wrong(fail("MissingParameter", "The request must contain the parameter InstanceId"))
	}
	c.params.boolean("Force", false)
	if err := c.params.end(); err != nil {
		return nil, err
	}
	var targets []target
	for _, id := range ids {
		targets = append(targets, c.resourceTarget("instance", id))
	}
	if err := c.authorize(targets...); err != nil {
		return nil, err
	}
	a := c.account
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range ids {
		if !c.there("instance", id) {
			return nil, notFound("instance", id)
		}
	}
	type item struct {
		InstanceID    string   `xml:"instanceId"`
		CurrentState  stateXML `xml:"currentState"`
		PreviousState stateXML `xml:"previousState"`
	}
	var out struct {
		meta
		Instances items[item] `xml:"instancesSet"`
	}
	var failed error
	for _, id := range ids {
		before, _ := a.instances.get(id)
		failed = errors.Join(failed, change(a, id))
		after, _ := a.instances.get(id)
		out.Instances.Items = append(out.Instances.Items, item{id, renderState(after.State), renderState(before.State)})
	}
	if failed != nil {
		return nil, failed
	}
	return &out, nil
}

func terminateInstances(c *call) (any, error) {
	return c.move(func(a *Account, id string) error { a.terminate(id, reasonUser); return nil })
}

func stopInstances(c *call) (any, error) {
	if c.params.boolean("Hibernate", false) {
		return c.move((*Account).hibernateInstance)
	}
	return c.move((*Account).stopInstance)
}

func startInstances(c *call) (any, error) { return c.move((*Account).startInstance) }

func rebootInstances(c *call) (any, error) {
	if _, err := c.move((*Account).rebootInstance); err != nil {
		return nil, err
	}
	return &done{Return: true}, nil
}
