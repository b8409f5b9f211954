package cloud

import (
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Template is a launch template. Values are never changed: the account puts new ones.
type Template struct {
	ID, Name string
	Created  time.Time
	Default  int64
	Versions []TemplateVersion // in the order of their numbers, which are given out once
	Tags     map[string]string
	next     int64
}

// TemplateVersion is one version: "Launch templates are immutable" (EC2 User Guide, "Restrictions
// for Amazon EC2 launch templates").
type TemplateVersion struct {
	Number      int64
	Description string
	Created     time.Time
	By          string
	Data        url.Values // what was said in LaunchTemplateData: BlockDeviceMapping.1.Ebs.SnapshotId, …
}

// mostVersions: "10,000 versions per launch template" (same page). The code for one more is in no
// list; the lab says LimitExceeded, in the manner of the others.
const mostVersions = 10_000

// versionsPerCall is the most that DescribeLaunchTemplateVersions gives and
// DeleteLaunchTemplateVersions takes (their API references: MaxResults, "up to 200 versions").
const versionsPerCall = 200

// templateNames: "between 3 and 128 characters, and may contain letters, numbers, and … '-', '_',
// '.', '/', '(', and ')'" (error code InvalidLaunchTemplateName.MalformedException).
var templateNames = regexp.MustCompile(`^[A-Za-z0-9()./_-]{3,128}$`)

// templateData are the parameters of RequestLaunchTemplateData that the lab has: what a launch
// needs, and what a version must not lose.
var templateData = regexp.MustCompile(`^(ImageId|InstanceType|KeyName|UserData|EbsOptimized|IamInstanceProfile\.(Name|Arn)` +
	`|SecurityGroupId\.\d+|MetadataOptions\.(HttpTokens|HttpEndpoint|HttpPutResponseHopLimit|InstanceMetadataTags)` +
	`|HibernationOptions\.Configured` +
	`|TagSpecification\.\d+\.(ResourceType|Tag\.\d+\.(Key|Value))` +
	`|BlockDeviceMapping\.\d+\.(DeviceName|NoDevice|VirtualName` +
	`|Ebs\.(DeleteOnTermination|Encrypted|Iops|KmsKeyId|SnapshotId|Throughput|VolumeInitializationRate|VolumeSize|VolumeType)))$`)

// inheritedSnapshot is what a new version loses of its source: "Snapshots applied to the block
// device mapping are ignored when creating a new version unless they are explicitly included"
// (CreateLaunchTemplateVersion, SourceVersion; aws-cli #4297).
var inheritedSnapshot = regexp.MustCompile(`^BlockDeviceMapping\.\d+\.Ebs\.SnapshotId$`)

// launchTemplateData reads LaunchTemplateData: "not fully validated when you create the launch
// template" (same page).
func (p params) launchTemplateData() url.Values {
	const prefix = "LaunchTemplateData."
	data := url.Values{}
	for name := range p.form {
		key, ours := strings.CutPrefix(name, prefix)
		switch {
		case !ours:
		case !templateData.MatchString(key):
			p.wrong(fail("UnknownParameter", "The parameter %s is not recognized", name))
		default:
			data.Set(key, p.str(name))
		}
	}
	if len(data) == 0 {
		p.wrong(fail("MissingParameter", "The request must contain the parameter LaunchTemplateData"))
	}
	return data
}

// inherit makes the data of a new version: "if you specify additional launch parameters for the new
// version, they overwrite any corresponding launch parameters inherited from the source version"
// (SourceVersion). A list is one parameter.
func inherit(source, own url.Values) url.Values {
	given := map[string]bool{}
	for key := range own {
		top, _, _ := strings.Cut(key, ".")
		given[top] = true
	}
	data := maps.Clone(own)
	for key, value := range source {
		top, _, _ := strings.Cut(key, ".")
		if !given[top] && !inheritedSnapshot.MatchString(key) {
			data[key] = value
		}
	}
	return data
}

// version finds one by its number, $Default or $Latest; "" is $Default (LaunchTemplateSpecification
// of Auto Scaling, Version).
func (t Template) version(name string) (TemplateVersion, bool) {
	number, err := strconv.ParseInt(name, 10, 64)
	switch {
	case len(t.Versions) == 0:
		return TemplateVersion{}, false
	case name == "$Latest":
		return t.Versions[len(t.Versions)-1], true
	case name == "$Default" || name == "":
		number = t.Default
	case err != nil:
		return TemplateVersion{}, false
	}
	at := slices.IndexFunc(t.Versions, func(v TemplateVersion) bool { return v.Number == number })
	if at < 0 {
		return TemplateVersion{}, false
	}
	return t.Versions[at], true
}

func (t Template) noVersion(name string) error {
	return fail("InvalidLaunchTemplateId.VersionNotFound",
		"Could not find the specified version %s for the launch template with ID %s.", name, t.ID)
}

// addVersion makes another version. mu is held.
func (a *Account) addVersion(t *Template, v TemplateVersion) TemplateVersion {
	t.next++
	v.Number, v.Created = t.next, time.Now()
	t.Versions = append(slices.Clip(t.Versions), v)
	a.templates.put(t.ID, *t)
	a.notify()
	return v
}

// newTemplate makes a template with its first version. mu is held.
func (a *Account) newTemplate(name string, first TemplateVersion, tags map[string]string) (Template, error) {
	for _, e := range a.templates.list(time.Now()) {
		if e.value.Name == name {
			return Template{}, fail("InvalidLaunchTemplateName.AlreadyExistsException", "Launch template name already in use.")
		}
	}
	t := Template{ID: a.newID("lt-"), Name: name, Created: time.Now(), Default: 1, Tags: tags}
	a.addVersion(&t, first)
	return t, nil
}

// templateOf finds a template by its id or, if that is empty, by its name. mu is held.
func (a *Account) templateOf(id, name string, at time.Time) (Template, error) {
	if id != "" {
		if t, ok := a.templates.getAsOf(id, at); ok {
			return t, nil
		}
		return Template{}, fail("InvalidLaunchTemplateId.NotFound", "The specified launch template, with template ID %s, does not exist.", id)
	}
	for _, e := range a.templates.list(at) {
		if e.value.Name == name { // "Launch template names are case-sensitive"
			return e.value, nil
		}
	}
	return Template{}, fail("InvalidLaunchTemplateName.NotFoundException",
		"The specified launch template, with template name %s, does not exist.", name)
}

// Templates returns the true state of all launch templates.
func (a *Account) Templates() []Template { return all(a, &a.templates) }

// templateTarget is a template as policies see it (Service Authorization Reference, Amazon EC2:
// launch-template).
func (c *call) templateTarget(t Template, id string) target {
	if t.ID == "" {
		t.ID = id
	}
	conditions := map[string][]string{}
	for key, value := range t.Tags {
		conditions["aws:ResourceTag/"+key] = []string{value}
		conditions["ec2:ResourceTag/"+key] = []string{value}
	}
	return target{c.account.arn("launch-template", t.ID), conditions}
}

// onTemplate does something with the template that a call names, if it may. mu is held meanwhile.
func (c *call) onTemplate(do func(a *Account, t Template) (any, error)) (any, error) {
	p, a := c.params, c.account
	id, name := p.str("LaunchTemplateId"), p.str("LaunchTemplateName")
	switch {
	case id != "" && name != "": // "You must specify either the launch template ID or the launch template name, but not both"
		p.wrong(fail("InvalidParameterCombination", "You must specify either a LaunchTemplateId or a LaunchTemplateName, not both"))
	case id == "" && name == "":
		p.wrong(fail("MissingParameter", "You must specify either a LaunchTemplateId or a LaunchTemplateName"))
	case id != "" && !regexp.MustCompile(`^lt-([0-9a-f]{8}|[0-9a-f]{17})$`).MatchString(id):
		p.wrong(fail("InvalidLaunchTemplateId.Malformed", "Invalid launch template ID: %s", id))
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	a.mu.Lock()
	t, err := a.templateOf(id, name, c.at)
	a.mu.Unlock()
	if err := c.authorize(c.templateTarget(t, id)); err != nil {
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if t, err = a.templateOf(t.ID, "", time.Now()); err != nil { // nothing is changed by what a read may see
		return nil, err
	}
	return do(a, t)
}

func versionDescription(p params) string {
	text := p.str("VersionDescription")
	if len(text) > 255 { // "Length Constraints: Minimum length of 0. Maximum length of 255."
		p.wrong(fail("InvalidParameterValue", "The version description must be at most 255 characters"))
	}
	return text
}

func createTemplate(c *call) (any, error) {
	p, a := c.params, c.account
	name, token := p.need("LaunchTemplateName"), p.str("ClientToken")
	v := TemplateVersion{Description: versionDescription(p), By: c.principal.ARN, Data: p.launchTemplateData()}
	tags := p.tagSpecification("launch-template")["launch-template"]
	if !templateNames.MatchString(name) {
		p.wrong(fail("InvalidLaunchTemplateName.MalformedException", "Invalid launch template name: %s", name))
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	if err := c.authorizeTagging("launch-template", tags); err != nil {
		return nil, err
	}
	if err := c.authorize(c.newTarget("launch-template", tags, nil)); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	old, found, err := a.retried(c, token)
	if err != nil {
		return nil, err
	}
	t, _ := a.templates.get(old)
	if !found {
		if t, err = a.newTemplate(name, v, tags); err != nil {
			return nil, err
		}
		a.remember(c, token, t.ID)
	}
	c.made = t.ID
	return &oneTemplate{Template: a.renderLaunchTemplate(t)}, nil
}

func createTemplateVersion(c *call) (any, error) {
	p := c.params
	source, token := p.str("SourceVersion"), p.str("ClientToken")
	v := TemplateVersion{Description: versionDescription(p), By: c.principal.ARN, Data: p.launchTemplateData()}
	p.boolean("ResolveAlias", false)
	return c.onTemplate(func(a *Account, t Template) (any, error) {
		old, found, err := a.retried(c, token)
		if err != nil {
			return nil, err
		}
		if found {
			if v, found = t.version(old); !found {
				return nil, t.noVersion(old)
			}
			return &oneVersion{Version: renderVersion(t, v)}, nil
		}
		if source != "" {
			from, ok := t.version(source)
			if !ok {
				return nil, t.noVersion(source)
			}
			v.Data = inherit(from.Data, v.Data)
		}
		if len(t.Versions) >= mostVersions {
			return nil, fail("LimitExceeded", "The maximum number of versions of launch template %s, %d, has been reached.", t.ID, mostVersions)
		}
		v = a.addVersion(&t, v)
		a.remember(c, token, fmt.Sprint(v.Number))
		return &oneVersion{Version: renderVersion(t, v)}, nil
	})
}

func modifyTemplate(c *call) (any, error) {
	wanted := c.params.str("SetDefaultVersion")
	c.params.str("ClientToken")
	return c.onTemplate(func(a *Account, t Template) (any, error) {
		if wanted != "" {
			v, ok := t.version(wanted)
			if !ok || strings.HasPrefix(wanted, "$") {
				return nil, t.noVersion(wanted)
			}
			t.Default = v.Number
			a.templates.put(t.ID, t)
			a.notify()
		}
		return &oneTemplate{Template: a.renderLaunchTemplate(t)}, nil
	})
}

// deleteTemplateVersions answers with 200 also when a version could not be deleted
// (DeleteLaunchTemplateVersions, unsuccessfullyDeletedLaunchTemplateVersionSet).
func deleteTemplateVersions(c *call) (any, error) {
	numbers := c.params.list("LaunchTemplateVersion")
	if len(numbers) == 0 {
		c.params.wrong(fail("MissingParameter", "The request must contain the parameter LaunchTemplateVersion"))
	}
	if len(numbers) > versionsPerCall { // "You can delete up to 200 launch template versions in a single request"
		c.params.wrong(fail("InvalidParameterValue", "You can delete up to %d versions in a single request", versionsPerCall))
	}
	return c.onTemplate(func(a *Account, t Template) (any, error) {
		type problem struct {
			Code    string `xml:"code"`
			Message string `xml:"message"`
		}
		type item struct {
			ID      string   `xml:"launchTemplateId"`
			Name    string   `xml:"launchTemplateName"`
			Version string   `xml:"versionNumber"`
			Error   *problem `xml:"responseError,omitempty"`
		}
		var out struct {
			meta
			Deleted items[item] `xml:"successfullyDeletedLaunchTemplateVersionSet"`
			Failed  items[item] `xml:"unsuccessfullyDeletedLaunchTemplateVersionSet"`
		}
		for _, number := range numbers {
			v, ok := t.version(number)
			i := item{ID: t.ID, Name: t.Name, Version: number}
			switch {
			case !ok || strings.HasPrefix(number, "$"):
				i.Error = &problem{"launchTemplateVersionDoesNotExist", "The version " + number + " does not exist."}
			case v.Number == t.Default: // "You can't delete the default version of a launch template"; which of the codes, no page says
				i.Error = &problem{"unexpectedError", "You cannot delete the default version of a launch template."}
			}
			if i.Error != nil {
				out.Failed.Items = append(out.Failed.Items, i)
				continue
			}
			out.Deleted.Items = append(out.Deleted.Items, i)
			t.Versions = slices.DeleteFunc(slices.Clone(t.Versions), func(o TemplateVersion) bool { return o.Number == v.Number })
		}
		a.templates.put(t.ID, t)
		a.notify()
		return &out, nil
	})
}
