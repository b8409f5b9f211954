package cloud

import (
	"maps"
	"strings"
	"unicode/utf8"
)

// Limits on tags (EC2 User Guide, "Tag restrictions").
const (
	maxTags     = 50
	maxTagKey   = 128 // characters
	maxTagValue = 256
)

// tagPairs reads Tag.N.Key, Tag.N.Value under a prefix and applies the restrictions.
func (p params) tagPairs(name string) map[string]string {
	tags := map[string]string{}
	for _, t := range p.each(name) {
		key, value := t.need("Key"), t.str("Value")
		if _, twice := tags[key]; twice {
			p.wrong(fail("InvalidParameterValue", "Duplicate tag key '%s' specified.", key))
		}
		if strings.HasPrefix(strings.ToLower(key), "aws:") {
			p.wrong(fail("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use"))
		}
		if utf8.RuneCountInString(key) > maxTagKey {
			p.wrong(fail("InvalidParameterValue", "Tag key exceeds the maximum length of %d characters", maxTagKey))
		}
		if utf8.RuneCountInString(value) > maxTagValue {
			p.wrong(fail("InvalidParameterValue", "Tag value exceeds the maximum length of %d characters", maxTagValue))
		}
		tags[key] = value
	}
	if len(tags) > maxTags {
		p.wrong(fail("TagLimitExceeded", "The maximum number of Tags for a resource has been reached."))
	}
	return tags
}

// tagSpecification reads the TagSpecification.N of a create call, which must be for the kinds that
// the call makes.
func (p params) tagSpecification(kinds ...string) map[string]map[string]string {
	out := map[string]map[string]string{}
	for _, spec := range p.each("TagSpecification") {
		kind, known := spec.need("ResourceType"), false
		for _, k := range kinds {
			known = known || k == kind
		}
		if !known {
			p.wrong(fail("InvalidParameterValue", "'%s' is not a valid taggable resource type for this operation.", kind))
		}
		out[kind] = spec.tagPairs("Tag")
	}
	return out
}

// tagsOf returns the tags of a resource; nil when it is not there. mu is held.
func (a *Account) tagsOf(kind, id string) map[string]string {
	switch kind {
	case "volume":
		v, _ := a.volumes.get(id)
		return v.Tags
	case "snapshot":
		s, _ := a.snapshots.get(id)
		return s.Tags
	case "instance":
		i, _ := a.instances.get(id)
		return i.Tags
	}
	return nil
}

// retag changes the tags of a resource. mu is held.
func (a *Account) retag(kind, id string, tags map[string]string) {
	switch kind {
	case "volume":
		a.setVolume(id, func(v *Volume) { v.Tags = tags })
	case "snapshot":
		a.setSnapshot(id, func(s *Snapshot) { s.Tags = tags })
	case "instance":
		a.setInstance(id, func(i *Instance) { i.Tags = tags })
	}
}

// kindOf tells a resource's kind by its id; "" for one that the lab does not have.
func kindOf(id string) string {
	switch {
	case strings.HasPrefix(id, "vol-"):
		return "volume"
	case strings.HasPrefix(id, "snap-"):
		return "snapshot"
	case strings.HasPrefix(id, "i-"):
		return "instance"
	}
	return ""
}

// there says whether a resource is visible to a call: it was there at the time that the call is
// served as of, and it still is. mu is held.
func (c *call) there(kind, id string) bool {
	seen := func(then, now bool) bool { return then && now }
	a := c.account
	switch kind {
	case "volume":
		_, then := a.volumes.getAsOf(id, c.at)
		_, now := a.volumes.get(id)
		return seen(then, now)
	case "snapshot":
		_, then := a.snapshots.getAsOf(id, c.at)
		_, now := a.snapshots.get(id)
		return seen(then, now)
	case "instance":
		_, then := a.instances.getAsOf(id, c.at)
		i, now := a.instances.get(id)
		return seen(then, now && !a.forgotten(i))
	}
	return false
}

// tagTargets reads ResourceId.N, at most 1000 ("CreateTags", ResourceId).
func (c *call) tagTargets() []string {
	ids := c.params.list("ResourceId")
	if len(ids) == 0 {
		c.params.wrong(fail("MissingParameter", "The request must contain the parameter resourceIdSet"))
	}
	if len(ids) > 1000 {
		c.params.wrong(fail("InvalidParameterValue", "The maximum number of resources is 1000"))
	}
	for _, id := range ids {
		kind := kindOf(id)
		if kind == "" {
			c.params.wrong(fail("InvalidID", "The ID '%s' is not valid", id))
			continue
		}
		if err := malformed(kind, id); err != nil {
			c.params.wrong(err)
		}
	}
	return ids
}

func createTags(c *call) (any, error) {
	ids, tags := c.tagTargets(), c.params.tagPairs("Tag")
	if len(tags) == 0 {
		c.params.wrong(fail("MissingParameter", "The request must contain the parameter tagSet"))
	}
	return c.changeTags(ids, requestTags(tags), func(old map[string]string) map[string]string {
		out := maps.Clone(old)
		if out == nil {
			out = map[string]string{}
		}
		maps.Copy(out, tags)
		return out
	})
}

func deleteTags(c *call) (any, error) {
	ids := c.tagTargets()
	type tag struct {
		value string
		any   bool // "If you specify a tag key without a tag value, we delete any tag with this key regardless of its value" (DeleteTags, Tag)
	}
	tags := map[string]tag{}
	for _, t := range c.params.each("Tag") {
		tags[t.need("Key")] = tag{t.str("Value"), !t.has("Value")}
	}
	return c.changeTags(ids, map[string][]string{"aws:TagKeys": sortedKeys(tags)}, func(old map[string]string) map[string]string {
		out := map[string]string{}
		for key, value := range old {
			t, named := tags[key]
			switch {
			case strings.HasPrefix(key, "aws:"): // "aws: tags … can't be edited or deleted" (Tag restrictions)
			case len(tags) == 0: // "If you omit this parameter, we delete all user-defined tags"
				continue
			case named && (t.any || t.value == value):
				continue
			}
			out[key] = value
		}
		return out
	})
}

// changeTags changes the tags of all resources or of none.
func (c *call) changeTags(ids []string, conditions map[string][]string, change func(map[string]string) map[string]string) (any, error) {
	if err := c.params.end(); err != nil {
		return nil, err
	}
	var targets []target
	for _, id := range ids {
		t := c.resourceTarget(kindOf(id), id)
		maps.Copy(t.conditions, conditions)
		targets = append(targets, t)
	}
	if err := c.authorize(targets...); err != nil {
		return nil, err
	}
	a := c.account
	a.mu.Lock()
	defer a.mu.Unlock()
	changed := map[string]map[string]string{}
	for _, id := range ids {
		if !c.there(kindOf(id), id) {
			return nil, notFound(kindOf(id), id)
		}
		changed[id] = change(a.tagsOf(kindOf(id), id))
		if len(changed[id]) > maxTags {
			return nil, fail("TagLimitExceeded", "The maximum number of Tags for a resource has been reached.")
		}
	}
	for id, tags := range changed {
		a.retag(kindOf(id), id, tags)
	}
	return &done{Return: true}, nil
}

// tagRow is one line of DescribeTags.
type tagRow struct{ id, key, value string }

func describeTags(c *call) (any, error) {
	filters, max, token := c.params.filters("Filter", "Value"), c.params.number("MaxResults", 0, 5, 1000), c.params.str("NextToken")
	if err := c.params.end(); err != nil {
		return nil, err
	}
	known := fields[tagRow]{
		"key":           func(t tagRow) []string { return one(t.key) },
		"value":         func(t tagRow) []string { return one(t.value) },
		"resource-id":   func(t tagRow) []string { return one(t.id) },
		"resource-type": func(t tagRow) []string { return one(kindOf(t.id)) },
	}
	if err := check(filters, known); err != nil {
		return nil, err
	}
	if err := c.authorize(target{arn: "*"}); err != nil {
		return nil, err
	}
	a := c.account
	a.mu.Lock()
	defer a.mu.Unlock()
	var rows []entry[tagRow]
	add := func(id string, tags map[string]string) {
		for _, key := range sortedKeys(tags) {
			rows = append(rows, entry[tagRow]{len(rows) + 1, tagRow{id, key, tags[key]}})
		}
	}
	for _, e := range a.instances.list(c.at) {
		add(e.value.ID, e.value.Tags)
	}
	for _, e := range a.snapshots.list(c.at) {
		add(e.value.ID, e.value.Tags)
	}
	for _, e := range a.volumes.list(c.at) {
		add(e.value.ID, e.value.Tags)
	}
	rows, next, err := page(rows, max, token)
	if err != nil {
		return nil, err
	}
	type item struct {
		Key          string `xml:"key"`
		ResourceID   string `xml:"resourceId"`
		ResourceType string `xml:"resourceType"`
		Value        string `xml:"value"`
	}
	var out struct {
		meta
		Tags      items[item] `xml:"tagSet"`
		NextToken string      `xml:"nextToken,omitempty"`
	}
	out.NextToken = next
	for _, r := range rows {
		if matches(filters, known, r.value, nil) {
			out.Tags.Items = append(out.Tags.Items, item{r.value.key, r.value.id, kindOf(r.value.id), r.value.value})
		}
	}
	return &out, nil
}
