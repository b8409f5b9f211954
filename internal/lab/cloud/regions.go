package cloud

import (
	"slices"
)

func describeAvailabilityZones(c *call) (any, error) {
	names, filters := c.params.list("ZoneName"), c.params.filters("Filter", "Value")
	c.params.boolean("AllAvailabilityZones", false)
	if err := c.params.end(); err != nil {
		return nil, err
	}
	a := c.account
	known := fields[string]{
		"zone-name":   one,
		"state":       func(string) []string { return one("available") },
		"region-name": func(string) []string { return one(a.opts.Region) },
	}
	if err := check(filters, known); err != nil {
		return nil, err
	}
	if err := c.authorize(target{arn: "*"}); err != nil {
		return nil, err
	}
	for _, name := range names {
		if !slices.Contains(a.opts.Zones, name) {
			return nil, fail("InvalidParameterValue", "Invalid availability zone: [%s]", name)
		}
	}
	type item struct {
		Name   string `xml:"zoneName"`
		ID     string `xml:"zoneId"`
		State  string `xml:"zoneState"`
		Region string `xml:"regionName"`
		Type   string `xml:"zoneType"`
	}
	var out struct {
		meta
		Zones items[item] `xml:"availabilityZoneInfo"`
	}
	for _, name := range a.opts.Zones {
		if (len(names) == 0 || slices.Contains(names, name)) && matches(filters, known, name, nil) {
			out.Zones.Items = append(out.Zones.Items, item{name, "lab-az-" + name[len(name)-1:], "available", a.opts.Region, "availability-zone"})
		}
	}
	return &out, nil
}

func describeRegions(c *call) (any, error) {
	names := c.params.list("RegionName")
	c.params.boolean("AllRegions", false)
	if err := c.mayRead(); err != nil {
		return nil, err
	}
	region := c.account.opts.Region
	for _, name := range names {
		if name != region {
			return nil, fail("InvalidParameterValue", "Invalid region: [%s]", name)
		}
	}
	type item struct {
		Name     string `xml:"regionName"`
		Endpoint string `xml:"regionEndpoint"`
		OptIn    string `xml:"optInStatus"`
	}
	out := struct {
		meta
		Regions items[item] `xml:"regionInfo"`
	}{Regions: items[item]{[]item{{region, "ec2." + region + ".amazonaws.com", "opt-in-not-required"}}}}
	return &out, nil
}

// getCallerIdentity needs no permission (STS API reference, GetCallerIdentity).
func getCallerIdentity(c *call) (any, error) {
	if err := c.params.end(); err != nil {
		return nil, err
	}
	return struct{ Account, Arn, UserId string }{c.principal.Account, c.principal.ARN, c.principal.UserID}, nil
}
