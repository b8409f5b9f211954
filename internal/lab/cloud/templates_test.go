package cloud

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func mappingOf(device, snapshot string) types.LaunchTemplateBlockDeviceMappingRequest {
	return types.LaunchTemplateBlockDeviceMappingRequest{DeviceName: &device, Ebs: &types.LaunchTemplateEbsBlockDeviceRequest{
		SnapshotId: &snapshot, DeleteOnTermination: aws.Bool(true), VolumeInitializationRate: aws.Int32(200),
	}}
}

// template makes one that brings two volumes.
func (l *lab) template(name string) string {
	l.Helper()
	out, err := l.ec2.CreateLaunchTemplate(l.ctx, &ec2.CreateLaunchTemplateInput{
		LaunchTemplateName: &name, VersionDescription: aws.String("first"),
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeLaunchTemplate, Tags: []types.Tag{{Key: aws.String("team"), Value: aws.String("a")}}}},
		LaunchTemplateData: &types.RequestLaunchTemplateData{
			ImageId: aws.String("ami-1"), InstanceType: types.InstanceTypeM5Large, UserData: aws.String(base64.StdEncoding.EncodeToString([]byte("hello"))),
			IamInstanceProfile: &types.LaunchTemplateIamInstanceProfileSpecificationRequest{Arn: aws.String("arn:aws:iam::123456789012:instance-profile/member")},
			SecurityGroupIds:   []string{"sg-1", "sg-2"},
			TagSpecifications: []types.LaunchTemplateTagSpecificationRequest{{ResourceType: types.ResourceTypeInstance,
				Tags: []types.Tag{{Key: aws.String("from"), Value: aws.String("template")}}}},
			BlockDeviceMappings: []types.LaunchTemplateBlockDeviceMappingRequest{mappingOf("/dev/sdf", "snap-1"), mappingOf("/dev/sdg", "snap-2")},
		},
	})
	l.ok(err)
	return *out.LaunchTemplate.LaunchTemplateId
}

func (l *lab) addVersion(id, source string, data types.RequestLaunchTemplateData) int64 {
	l.Helper()
	out, err := l.ec2.CreateLaunchTemplateVersion(l.ctx, &ec2.CreateLaunchTemplateVersionInput{
		LaunchTemplateId: &id, SourceVersion: aws.String(source), LaunchTemplateData: &data, VersionDescription: aws.String("from " + source)})
	l.ok(err)
	return *out.LaunchTemplateVersion.VersionNumber
}

func (l *lab) versions(id string, change ...func(*ec2.DescribeLaunchTemplateVersionsInput)) ([]types.LaunchTemplateVersion, error) {
	in := &ec2.DescribeLaunchTemplateVersionsInput{LaunchTemplateId: &id}
	for _, f := range change {
		f(in)
	}
	out, err := l.ec2.DescribeLaunchTemplateVersions(l.ctx, in)
	if err != nil {
		return nil, err
	}
	return out.LaunchTemplateVersions, nil
}

func named(versions ...string) func(*ec2.DescribeLaunchTemplateVersionsInput) {
	return func(in *ec2.DescribeLaunchTemplateVersionsInput) { in.Versions = versions }
}

// numbers are "2*", "1": the default has the star.
func numbers(all []types.LaunchTemplateVersion) string {
	var out []string
	for _, v := range all {
		star := ""
		if *v.DefaultVersion {
			star = "*"
		}
		out = append(out, fmt.Sprintf("%d%s", *v.VersionNumber, star))
	}
	return strings.Join(out, ",")
}

func TestLaunchTemplateVersions(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		id := l.template("web-members")
		all, err := l.versions(id)
		l.ok(err)
		data := all[0].LaunchTemplateData
		if len(all) != 1 || *all[0].VersionDescription != "first" || *data.ImageId != "ami-1" || strings.Join(data.SecurityGroupIds, " ") != "sg-1 sg-2" ||
			*data.TagSpecifications[0].Tags[0].Value != "template" || *data.IamInstanceProfile.Arn != "arn:aws:iam::123456789012:instance-profile/member" {
			t.Errorf("%+v", data)
		}
		if m := data.BlockDeviceMappings; len(m) != 2 || *m[1].DeviceName != "/dev/sdg" || *m[1].Ebs.SnapshotId != "snap-2" || !*m[0].Ebs.DeleteOnTermination {
			t.Errorf("%+v", m)
		}

		// A new version inherits all but the snapshots, or what it is given instead of a whole list.
		l.addVersion(id, "1", types.RequestLaunchTemplateData{ImageId: aws.String("ami-2")})
		l.addVersion(id, "1", types.RequestLaunchTemplateData{BlockDeviceMappings: []types.LaunchTemplateBlockDeviceMappingRequest{mappingOf("/dev/sdf", "snap-3")}})
		all, err = l.versions(id)
		l.ok(err)
		if got := numbers(all); got != "3,2,1*" {
			t.Errorf("versions %s", got)
		}
		if m := all[1].LaunchTemplateData.BlockDeviceMappings; *all[1].LaunchTemplateData.ImageId != "ami-2" || len(m) != 2 || m[0].Ebs.SnapshotId != nil {
			t.Errorf("%+v", m)
		}
		if d := all[0].LaunchTemplateData; *d.UserData != "aGVsbG8=" || len(d.BlockDeviceMappings) != 1 || *d.BlockDeviceMappings[0].Ebs.SnapshotId != "snap-3" {
			t.Errorf("%+v", d)
		}

		modified, err := l.ec2.ModifyLaunchTemplate(l.ctx, &ec2.ModifyLaunchTemplateInput{LaunchTemplateName: aws.String("web-members"), DefaultVersion: aws.String("3")})
		l.ok(err)
		if *modified.LaunchTemplate.DefaultVersionNumber != 3 || *modified.LaunchTemplate.LatestVersionNumber != 3 {
			t.Errorf("%+v", modified.LaunchTemplate)
		}
		deleted, err := l.ec2.DeleteLaunchTemplateVersions(l.ctx, &ec2.DeleteLaunchTemplateVersionsInput{LaunchTemplateId: &id, Versions: []string{"2", "3", "9"}})
		l.ok(err) // with 200
		if ok, bad := deleted.SuccessfullyDeletedLaunchTemplateVersions, deleted.UnsuccessfullyDeletedLaunchTemplateVersions; len(ok) != 1 || *ok[0].VersionNumber != 2 ||
			len(bad) != 2 || bad[0].ResponseError.Code != types.LaunchTemplateErrorCodeUnexpectedError ||
			bad[1].ResponseError.Code != types.LaunchTemplateErrorCodeLaunchTemplateVersionDoesNotExist {
			t.Errorf("%+v", deleted)
		}
		if n := l.addVersion(id, "1", types.RequestLaunchTemplateData{ImageId: aws.String("ami-4")}); n != 4 { // numbers are not given out twice
			t.Errorf("version %d", n)
		}
		all, err = l.versions(id, named("$Default", "$Latest"))
		l.ok(err)
		if got := numbers(all); got != "4,3*" {
			t.Errorf("versions %s", got)
		}

		// Pages and filters.
		first, err := l.ec2.DescribeLaunchTemplateVersions(l.ctx, &ec2.DescribeLaunchTemplateVersionsInput{LaunchTemplateId: &id, MaxResults: aws.Int32(2)})
		l.ok(err)
		l.addVersion(id, "1", types.RequestLaunchTemplateData{ImageId: aws.String("ami-5")}) // shifts nothing
		rest, err := l.ec2.DescribeLaunchTemplateVersions(l.ctx, &ec2.DescribeLaunchTemplateVersionsInput{LaunchTemplateId: &id, MaxResults: aws.Int32(2), NextToken: first.NextToken})
		l.ok(err)
		if got := numbers(append(first.LaunchTemplateVersions, rest.LaunchTemplateVersions...)); got != "4,3*,1" || rest.NextToken != nil {
			t.Errorf("pages: %s", got)
		}
		all, err = l.versions(id, func(in *ec2.DescribeLaunchTemplateVersionsInput) {
			in.Filters = []types.Filter{{Name: aws.String("is-default-version"), Values: []string{"true"}}}
		})
		l.ok(err)
		if got := numbers(all); got != "3*" {
			t.Errorf("the default: %s", got)
		}
		listed, err := l.ec2.DescribeLaunchTemplates(l.ctx, &ec2.DescribeLaunchTemplatesInput{Filters: []types.Filter{{Name: aws.String("tag:team"), Values: []string{"a"}}}})
		l.ok(err)
		if len(listed.LaunchTemplates) != 1 || *listed.LaunchTemplates[0].LaunchTemplateId != id || *listed.LaunchTemplates[0].LatestVersionNumber != 5 {
			t.Errorf("%+v", listed.LaunchTemplates)
		}
	})
}

func TestLaunchTemplateErrors(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		id := l.template("web-members")
		data := &types.RequestLaunchTemplateData{ImageId: aws.String("ami-1")}
		make := func(change func(*ec2.CreateLaunchTemplateVersionInput)) error {
			in := &ec2.CreateLaunchTemplateVersionInput{LaunchTemplateId: &id, SourceVersion: aws.String("1"), LaunchTemplateData: data}
			change(in)
			_, err := l.ec2.CreateLaunchTemplateVersion(l.ctx, in)
			return err
		}
		_, err := l.ec2.CreateLaunchTemplate(l.ctx, &ec2.CreateLaunchTemplateInput{LaunchTemplateName: aws.String("web-members"), LaunchTemplateData: data})
		l.wantCode(err, "InvalidLaunchTemplateName.AlreadyExistsException")
		_, err = l.ec2.CreateLaunchTemplate(l.ctx, &ec2.CreateLaunchTemplateInput{LaunchTemplateName: aws.String("a b"), LaunchTemplateData: data})
		l.wantCode(err, "InvalidLaunchTemplateName.MalformedException")
		l.wantCode(make(func(in *ec2.CreateLaunchTemplateVersionInput) { in.SourceVersion = aws.String("7") }), "InvalidLaunchTemplateId.VersionNotFound")
		l.wantCode(make(func(in *ec2.CreateLaunchTemplateVersionInput) {
			in.LaunchTemplateId = aws.String("lt-00000000000000009")
		}), "InvalidLaunchTemplateId.NotFound")
		l.wantCode(make(func(in *ec2.CreateLaunchTemplateVersionInput) { in.LaunchTemplateId = aws.String("lt-9") }), "InvalidLaunchTemplateId.Malformed")
		l.wantCode(make(func(in *ec2.CreateLaunchTemplateVersionInput) { in.LaunchTemplateName = aws.String("web-members") }), "InvalidParameterCombination")
		l.wantCode(make(func(in *ec2.CreateLaunchTemplateVersionInput) {
			in.LaunchTemplateId, in.LaunchTemplateName = nil, aws.String("nobody")
		}), "InvalidLaunchTemplateName.NotFoundException")
		l.wantCode(make(func(in *ec2.CreateLaunchTemplateVersionInput) {
			in.VersionDescription = aws.String(strings.Repeat("x", 256))
		}), "InvalidParameterValue")
		_, err = l.versions(id, named("7"))
		l.wantCode(err, "InvalidLaunchTemplateId.VersionNotFound")
		_, err = l.ec2.ModifyLaunchTemplate(l.ctx, &ec2.ModifyLaunchTemplateInput{LaunchTemplateId: &id, DefaultVersion: aws.String("7")})
		l.wantCode(err, "InvalidLaunchTemplateId.VersionNotFound")
		_, err = l.ec2.DeleteLaunchTemplateVersions(l.ctx, &ec2.DeleteLaunchTemplateVersionsInput{LaunchTemplateId: &id, Versions: make201()})
		l.wantCode(err, "InvalidParameterValue")

		// The same request makes one version, another request with its token none.
		again := func(in *ec2.CreateLaunchTemplateVersionInput) { in.ClientToken = aws.String("once") }
		l.ok(make(again))
		l.ok(make(again))
		l.wantCode(make(func(in *ec2.CreateLaunchTemplateVersionInput) { again(in); in.VersionDescription = aws.String("x") }), "IdempotentParameterMismatch")
		all, err := l.versions(id)
		l.ok(err)
		if got := numbers(all); got != "2,1*" {
			t.Errorf("versions %s", got)
		}
		l.mu.Lock()
		full, _ := l.templates.get(id)
		for n := len(all); n < mostVersions; n++ {
			full.next++
			full.Versions = append(full.Versions, TemplateVersion{Number: full.next})
		}
		l.templates.put(id, full)
		l.mu.Unlock()
		l.wantCode(make(func(*ec2.CreateLaunchTemplateVersionInput) {}), "LimitExceeded")
	})
}

func make201() (all []string) {
	for n := range 201 {
		all = append(all, fmt.Sprint(n+1))
	}
	return all
}

// TestLaunchTemplateRights: what changes something is of one template, reading is of none.
func TestLaunchTemplateRights(t *testing.T) {
	var asked []string
	opts := Options{Policy: func(_ context.Context, c Check) bool {
		asked = append(asked, c.Action+" "+c.Resource)
		return c.Action != "ec2:ModifyLaunchTemplate"
	}}
	inLab(t, opts, func(l *lab) {
		id := l.template("web-members")
		asked = nil
		l.addVersion(id, "1", types.RequestLaunchTemplateData{ImageId: aws.String("ami-2")})
		_, err := l.versions(id)
		l.ok(err)
		_, err = l.ec2.ModifyLaunchTemplate(l.ctx, &ec2.ModifyLaunchTemplateInput{LaunchTemplateName: aws.String("web-members"), DefaultVersion: aws.String("2")})
		l.wantCode(err, "UnauthorizedOperation")
		const arn = "arn:aws:ec2:us-east-1:123456789012:launch-template/"
		want := []string{"ec2:CreateLaunchTemplateVersion " + arn + id, "ec2:DescribeLaunchTemplateVersions *", "ec2:ModifyLaunchTemplate " + arn + id}
		if strings.Join(asked, "\n") != strings.Join(want, "\n") {
			t.Errorf("asked for %q, want %q", asked, want)
		}
	})
}

// TestGroupLaunchesFromItsTemplate: by its default, by its latest version, or by a number.
func TestGroupLaunchesFromItsTemplate(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		id, snap := l.template("web-members"), l.snapshot(l.volume())
		l.addVersion(id, "1", types.RequestLaunchTemplateData{BlockDeviceMappings: []types.LaunchTemplateBlockDeviceMappingRequest{mappingOf("/dev/sdf", snap)}})
		l.addVersion(id, "1", types.RequestLaunchTemplateData{ImageId: aws.String("ami-2"),
			BlockDeviceMappings: []types.LaunchTemplateBlockDeviceMappingRequest{{DeviceName: aws.String("/dev/xvdz"), NoDevice: aws.String("")}}})
		_, err := l.ec2.ModifyLaunchTemplate(l.ctx, &ec2.ModifyLaunchTemplateInput{LaunchTemplateId: &id, DefaultVersion: aws.String("2")})
		l.ok(err)
		l.ok(l.CreateGroup(GroupSpec{Name: "by-default", Max: 2, Desired: 1, Template: TemplateRef{ID: id, Version: "$Default"}}))
		l.ok(l.CreateGroup(GroupSpec{Name: "by-latest", Max: 2, Desired: 1, Template: TemplateRef{ID: id, Version: "$Latest"}}))
		l.ok(l.CreateGroup(GroupSpec{Name: "by-number", Max: 2, Desired: 1, Template: TemplateRef{ID: id, Version: "2", Mixed: true}}))
		l.wantCode(l.CreateGroup(GroupSpec{Name: "by-nothing", Template: TemplateRef{ID: id, Version: "9"}}), "not an API error")
		l.ok(l.CreateGroup(GroupSpec{Name: "web", Max: 1, Desired: 1}))
		ctx, cancel := context.WithTimeout(l.ctx, time.Hour)
		defer cancel()
		l.ok(l.Wait(ctx, func() bool { return len(l.Instances()) == 4 }))
		images := map[string]string{}
		for _, i := range l.Instances() {
			images[i.Group] = i.ImageID + " " + i.Role + " " + string(i.UserData) + " " + i.Tags["from"]
		}
		if images["by-default"] != "ami-1 member hello template" || images["by-latest"] != "ami-2 member hello template" || images["by-number"] != "ami-1 member hello template" {
			t.Errorf("%+v", images)
		}
		out, err := l.asg.DescribeAutoScalingGroups(l.ctx, &autoscaling.DescribeAutoScalingGroupsInput{})
		l.ok(err)
		seen := map[string]string{}
		for _, g := range out.AutoScalingGroups {
			spec := g.LaunchTemplate
			if spec == nil {
				spec = g.MixedInstancesPolicy.LaunchTemplate.LaunchTemplateSpecification
			}
			seen[*g.AutoScalingGroupName] = fmt.Sprint(*spec.LaunchTemplateName, " ", *spec.Version, " ", *g.Instances[0].LaunchTemplate.Version)
		}
		want := map[string]string{"by-default": "web-members $Default 2", "by-latest": "web-members $Latest 3", "by-number": "web-members 2 2", "web": "web $Default 1"}
		for name, text := range want {
			if seen[name] != text {
				t.Errorf("%s: %q, want %q", name, seen[name], text)
			}
		}
		brought := 0
		for _, v := range l.Volumes() {
			if v.SnapshotID == snap {
				brought++
			}
		}
		if brought != 2 {
			t.Errorf("%d volumes of the snapshot, want 2", brought)
		}
	})
}
