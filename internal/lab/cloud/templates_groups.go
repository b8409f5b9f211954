package cloud

import (
	"fmt"
	"net/url"
	"strings"
	"time"
)

// TemplateRef is the launch template of a group.
type TemplateRef struct {
	ID      string
	Version string // a number, $Latest or $Default
	Mixed   bool   // by a MixedInstancesPolicy
}

// groupTemplate is what a group launches from, if that was not made for it: of what was given for
// it without one. mu is held.
func (a *Account) groupTemplate(spec *GroupSpec) error {
	if spec.Template.ID != "" {
		t, ok := a.templates.get(spec.Template.ID)
		if _, there := t.version(spec.Template.Version); !ok || !there { // CreateAutoScalingGroup
			return fail("ValidationError", "You must use a valid fully-formed launch template. The specified launch template does not exist.")
		}
		return nil
	}
	name := spec.Name
	first := TemplateVersion{By: a.admin.AccessKeyID, Data: spec.Launch.templateData()}
	t, err := a.newTemplate(name, first, nil)
	if err != nil { // of a group of this name that is gone, or somebody's own
		t, err = a.newTemplate(name+"-"+a.token(8), first, nil)
	}
	spec.Template = TemplateRef{ID: t.ID, Version: "$Default", Mixed: spec.Template.Mixed}
	return err
}

// launchSpec is what a group launches from now, and the version that it is by. mu is held.
func (a *Account) launchSpec(g Group) (RunSpec, int64, error) {
	from := g.Template
	if at := g.activeRefresh(); at >= 0 && g.Refreshes[at].Desired.ID != "" {
		from = g.Refreshes[at].Desired
	}
	t, err := a.templateOf(from.ID, "", time.Now())
	if err != nil {
		return RunSpec{}, 0, err
	}
	v, ok := t.version(from.Version)
	if !ok {
		return RunSpec{}, 0, t.noVersion(from.Version)
	}
	spec, err := runSpecOf(v.Data)
	return spec, v.Number, err
}

// runSpecOf reads what a launch takes from a version, with the rules of RunInstances.
func runSpecOf(data url.Values) (RunSpec, error) {
	p := newParams(data)
	spec := RunSpec{
		ImageID: p.str("ImageId"), Type: p.str("InstanceType"), KeyName: p.str("KeyName"), UserData: p.base64("UserData"),
		Role: p.str("IamInstanceProfile.Name"),
	}
	if arn := p.str("IamInstanceProfile.Arn"); arn != "" { // the lab's instance profiles are called like their role
		spec.Role = arn[strings.LastIndex(arn, "/")+1:]
	}
	tags := p.tagSpecification("instance", "volume")
	spec.Tags, spec.VolumeTags, spec.Mappings = tags["instance"], tags["volume"], p.blockDeviceMappings()
	spec.Hibernation = p.boolean("HibernationOptions.Configured", false)
	spec.MetadataTags = p.str("MetadataOptions.InstanceMetadataTags") == "enabled"
	return spec, p.state.err
}

// templateData is a version that launches the same.
func (s RunSpec) templateData() url.Values {
	data := url.Values{}
	set := func(key, value string) {
		if value != "" {
			data.Set(key, value)
		}
	}
	set("ImageId", s.ImageID)
	set("InstanceType", s.Type)
	set("KeyName", s.KeyName)
	set("IamInstanceProfile.Name", s.Role)
	set("UserData", base64Of(s.UserData))
	if s.Hibernation {
		set("HibernationOptions.Configured", "true")
	}
	if s.MetadataTags {
		set("MetadataOptions.InstanceMetadataTags", "enabled")
	}
	n := 0
	for kind, tags := range map[string]map[string]string{"instance": s.Tags, "volume": s.VolumeTags} {
		if len(tags) == 0 {
			continue
		}
		n++
		set(fmt.Sprintf("TagSpecification.%d.ResourceType", n), kind)
		for i, key := range sortedKeys(tags) {
			set(fmt.Sprintf("TagSpecification.%d.Tag.%d.Key", n, i+1), key)
			data.Set(fmt.Sprintf("TagSpecification.%d.Tag.%d.Value", n, i+1), tags[key])
		}
	}
	for i, m := range s.Mappings {
		ebs := func(key, value string) { set(fmt.Sprintf("BlockDeviceMapping.%d.Ebs.%s", i+1, key), value) }
		number := func(key string, n int32) {
			if n != 0 {
				ebs(key, fmt.Sprint(n))
			}
		}
		set(fmt.Sprintf("BlockDeviceMapping.%d.DeviceName", i+1), m.Device)
		ebs("SnapshotId", m.SnapshotID)
		ebs("VolumeType", m.Type)
		ebs("KmsKeyId", m.KMSKeyID)
		ebs("DeleteOnTermination", fmt.Sprint(m.DeleteOnTermination))
		if m.Encrypted {
			ebs("Encrypted", "true")
		}
		number("VolumeSize", m.SizeGiB)
		number("Iops", m.IOPS)
		number("Throughput", m.Throughput)
		number("VolumeInitializationRate", m.InitializationRate)
	}
	return data
}
