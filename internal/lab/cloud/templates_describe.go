package cloud

import (
	"encoding/base64"
	"encoding/xml"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

func base64Of(data []byte) string { return base64.StdEncoding.EncodeToString(data) }

func describeTemplates(c *call) (any, error) {
	p, a := c.params, c.account
	ids, names, filters := p.list("LaunchTemplateId"), p.list("LaunchTemplateName"), p.filters("Filter", "Value")
	max, token := p.number("MaxResults", versionsPerCall, 1, versionsPerCall), p.str("NextToken") // "between 1 and 200"
	known := fields[Template]{
		"create-time":          func(t Template) []string { return one(wireTime(t.Created)) },
		"launch-template-name": func(t Template) []string { return one(t.Name) },
	}
	if err := check(filters, known); err != nil {
		p.wrong(err)
	}
	if err := c.mayRead(); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range ids {
		if _, err := a.templateOf(id, "", c.at); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		if _, err := a.templateOf("", name, c.at); err != nil {
			return nil, err
		}
	}
	list, next, err := page(a.templates.list(c.at), max, token)
	if err != nil {
		return nil, err
	}
	out := struct {
		meta
		Templates items[launchTemplateXML] `xml:"launchTemplates"`
		NextToken string                   `xml:"nextToken,omitempty"`
	}{NextToken: next}
	for _, e := range list {
		t := e.value
		wanted := len(ids)+len(names) == 0 || slices.Contains(ids, t.ID) || slices.Contains(names, t.Name)
		if wanted && matches(filters, known, t, t.Tags) {
			out.Templates.Items = append(out.Templates.Items, a.renderLaunchTemplate(t))
		}
	}
	return &out, nil
}

// versionOf is a version with its template.
type versionOf struct {
	Template
	version TemplateVersion
}

// describeTemplateVersions shows the versions of one template, the newest first, or with
// Versions=$Latest and $Default alone those of all (DescribeLaunchTemplateVersions).
func describeTemplateVersions(c *call) (any, error) {
	p, a := c.params, c.account
	id, name, wanted := p.str("LaunchTemplateId"), p.str("LaunchTemplateName"), p.list("LaunchTemplateVersion")
	low, high := p.number("MinVersion", 0, 0, 1<<30), p.number("MaxVersion", 1<<30, 0, 1<<30)
	max, token, filters := p.number("MaxResults", versionsPerCall, 1, versionsPerCall), p.str("NextToken"), p.filters("Filter", "Value")
	p.boolean("ResolveAlias", false)
	known := fields[versionOf]{
		"create-time":        func(v versionOf) []string { return one(wireTime(v.version.Created)) },
		"is-default-version": func(v versionOf) []string { return truth(v.version.Number == v.Default) },
		"image-id":           func(v versionOf) []string { return v.version.Data["ImageId"] },
		"instance-type":      func(v versionOf) []string { return v.version.Data["InstanceType"] },
	}
	if err := check(filters, known); err != nil {
		p.wrong(err)
	}
	if id != "" && name != "" {
		p.wrong(fail("InvalidParameterCombination", "You must specify either a LaunchTemplateId or a LaunchTemplateName, not both"))
	}
	if err := c.mayRead(); err != nil { // it has no resource (Service Authorization Reference)
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var found []Template
	if id == "" && name == "" {
		if len(wanted) == 0 || slices.ContainsFunc(wanted, func(v string) bool { return !strings.HasPrefix(v, "$") }) {
			return nil, fail("InvalidParameterValue", "Without a launch template the versions must be $Latest and $Default")
		}
		for _, e := range a.templates.list(c.at) {
			found = append(found, e.value)
		}
	} else {
		t, err := a.templateOf(id, name, c.at)
		if err != nil {
			return nil, err
		}
		found = append(found, t)
	}
	var list []entry[versionOf]
	for _, t := range found {
		chosen := map[int64]bool{}
		for _, w := range wanted {
			v, ok := t.version(w)
			if !ok {
				return nil, t.noVersion(w)
			}
			chosen[v.Number] = true
		}
		for _, v := range slices.Backward(t.Versions) {
			if (len(wanted) == 0 || chosen[v.Number]) && v.Number >= int64(low) && v.Number <= int64(high) {
				// Of one template, versions that come or go between two pages do not shift the rest.
				sequence := 1<<40 - int(v.Number)
				if len(found) > 1 {
					sequence = len(list) + 1
				}
				list = append(list, entry[versionOf]{sequence, versionOf{t, v}})
			}
		}
	}
	list, next, err := page(list, max, token)
	if err != nil {
		return nil, err
	}
	out := struct {
		meta
		Versions  items[versionXML] `xml:"launchTemplateVersionSet"`
		NextToken string            `xml:"nextToken,omitempty"`
	}{NextToken: next}
	for _, e := range list {
		if matches(filters, known, e.value, nil) {
			out.Versions.Items = append(out.Versions.Items, renderVersion(e.value.Template, e.value.version))
		}
	}
	return &out, nil
}

type launchTemplateXML struct {
	ID      string        `xml:"launchTemplateId"`
	Name    string        `xml:"launchTemplateName"`
	Created string        `xml:"createTime"`
	By      string        `xml:"createdBy"`
	Default int64         `xml:"defaultVersionNumber"`
	Latest  int64         `xml:"latestVersionNumber"`
	Tags    items[tagXML] `xml:"tagSet"`
}

type oneTemplate struct {
	meta
	Template launchTemplateXML `xml:"launchTemplate"`
}

type versionXML struct {
	ID          string  `xml:"launchTemplateId"`
	Name        string  `xml:"launchTemplateName"`
	Number      int64   `xml:"versionNumber"`
	Description string  `xml:"versionDescription,omitempty"`
	Created     string  `xml:"createTime"`
	By          string  `xml:"createdBy"`
	Default     bool    `xml:"defaultVersion"`
	Data        dataXML `xml:"launchTemplateData"`
}

type oneVersion struct {
	meta
	Version versionXML `xml:"launchTemplateVersion"`
}

func (a *Account) renderLaunchTemplate(t Template) launchTemplateXML {
	latest, _ := t.version("$Latest")
	return launchTemplateXML{t.ID, t.Name, wireTime(t.Created), a.admin.AccessKeyID, t.Default, latest.Number, tagSet(t.Tags)}
}

func renderVersion(t Template, v TemplateVersion) versionXML {
	return versionXML{t.ID, t.Name, v.Number, v.Description, wireTime(v.Created), v.By, v.Number == t.Default, dataXML(v.Data)}
}

// dataXML renders the parameters of a request as the answer has them: DeviceName is deviceName, and
// BlockDeviceMapping.1 is the first item of blockDeviceMappingSet (ResponseLaunchTemplateData).
type dataXML url.Values

// MarshalXML is xml.Marshaler's.
func (d dataXML) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	below := map[string]dataXML{}
	for key, values := range d {
		top, rest, _ := strings.Cut(key, ".")
		if below[top] == nil {
			below[top] = dataXML{}
		}
		below[top][rest] = values
	}
	if err := e.EncodeToken(start); err != nil {
		return err
	}
	for _, name := range sortedKeys(below) {
		if err := below[name].element(e, strings.ToLower(name[:1])+name[1:]); err != nil {
			return err
		}
	}
	return e.EncodeToken(start.End())
}

// element writes a value, a structure or a list.
func (d dataXML) element(e *xml.Encoder, name string) error {
	start := func(name string) xml.StartElement { return xml.StartElement{Name: xml.Name{Local: name}} }
	if value, plain := d[""]; plain {
		return e.EncodeElement(value[0], start(name))
	}
	list := map[int]dataXML{}
	for key, values := range d {
		top, rest, _ := strings.Cut(key, ".")
		n, err := strconv.Atoi(top)
		if err != nil {
			return d.MarshalXML(e, start(name))
		}
		if list[n] == nil {
			list[n] = dataXML{}
		}
		list[n][rest] = values
	}
	set := start(name + "Set")
	if err := e.EncodeToken(set); err != nil {
		return err
	}
	for n := 1; list[n] != nil; n++ {
		if value, plain := list[n][""]; plain {
			if err := e.EncodeElement(value[0], start("item")); err != nil {
				return err
			}
		} else if err := list[n].MarshalXML(e, start("item")); err != nil {
			return err
		}
	}
	return e.EncodeToken(set.End())
}
