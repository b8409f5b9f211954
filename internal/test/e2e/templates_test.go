package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
	"ebs-release/internal/lab/policy"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// templated has nothing published yet, and a group "app" that launches from the default version of
// a launch template with a blank volume where the release is to come.
func templated(t *testing.T, role string, more ...func(*lab.Options)) (*rig, string) {
	t.Helper()
	r := newRig(t, func(o *lab.Options) {
		for _, change := range more {
			change(o)
		}
		o.ServerRole, o.Groups = role, []string{"web", "app"}
		o.PublisherSettings["launch-template"], o.PublisherSettings["launch-template-device"] = "members", "/dev/sdf"
		o.PublisherSettings["keep"] = "2"
	})
	r.ok("init", "--size", "1")
	r.sh("mkdir -p /srv/source && echo one > /srv/source/version")
	out, err := r.ec2.CreateLaunchTemplate(t.Context(), &ec2.CreateLaunchTemplateInput{
		LaunchTemplateName: aws.String("members"), LaunchTemplateData: &types.RequestLaunchTemplateData{
			ImageId: aws.String(lab.MemberImage), InstanceType: types.InstanceTypeM5Large,
			IamInstanceProfile: &types.LaunchTemplateIamInstanceProfileSpecificationRequest{Name: aws.String("ebs-release-agent")},
			BlockDeviceMappings: []types.LaunchTemplateBlockDeviceMappingRequest{{DeviceName: aws.String("/dev/sdf"),
				Ebs: &types.LaunchTemplateEbsBlockDeviceRequest{VolumeSize: aws.Int32(1), VolumeType: types.VolumeTypeGp3, DeleteOnTermination: aws.Bool(true)}}},
		},
	})
	must(t, err)
	id := *out.LaunchTemplate.LaunchTemplateId
	must(t, r.lab.Account.CreateGroup(cloud.GroupSpec{Name: "app", Max: 10, Template: cloud.TemplateRef{ID: id, Version: "$Default"}}))
	return r, id
}

// template is a launch template, and the snapshots that its default and its latest version bring.
func (r *rig) template(id string) (t cloud.Template, standard, latest string) {
	r.Helper()
	all := r.lab.Account.Templates()
	t = all[slices.IndexFunc(all, func(t cloud.Template) bool { return t.ID == id })]
	for _, v := range t.Versions {
		latest = v.Data.Get("BlockDeviceMapping.1.Ebs.SnapshotId")
		if v.Number == t.Default {
			standard = latest
		}
	}
	return t, standard, latest
}

// follows fails unless the template brings what the pointer names, also by its latest version.
func (r *rig) follows(id, after string) {
	r.Helper()
	named, _ := r.named()
	if t, standard, latest := r.template(id); standard != named || latest != named {
		r.Errorf("after %s the template brings %q, its latest version (of %d) %q, and the pointer names %s", after, standard, len(t.Versions), latest, named)
	}
}

// launched are the members of "app", all booted, and the snapshots of the volumes that EC2 brought.
func (r *rig) launched(n int32) (hosts []*host.Host, brought []string) {
	r.Helper()
	must(r, r.lab.Account.SetDesired("app", n))
	hosts, err := r.lab.AllBooted(within(r, 60*time.Second), "app", int(n))
	must(r, err)
	for _, v := range r.lab.Account.Volumes() {
		if v.Attachment != nil && v.Attachment.Device == "/dev/sdf" {
			brought = append(brought, v.SnapshotID)
		}
	}
	return hosts, brought
}

// TestLaunchTemplateOfMembersThatFollowS3: who is on a volume that the template brings asks EC2 for
// nothing, in its boot and later.
func TestLaunchTemplateOfMembersThatFollowS3(t *testing.T) {
	r, id := templated(t, policy.TemplatesRole, func(o *lab.Options) {
		o.S3, o.Follow = true, true
		o.AgentSettings["follow-interval"], o.PublisherSettings["reach"] = "1s", "follow"
	})
	r.publishAs("one")
	r.follows(id, "the first publish")
	hosts, _ := r.launched(1)
	r.servesBrought(hosts[0], "one", 0, 0)
	r.publishAs("two")
	r.follows(id, "a publish")
	r.servesBrought(hosts[0], "two", 0, 0)
	two, _ := r.named()
	hosts, brought := r.launched(2)
	if !slices.Contains(brought, two) {
		t.Errorf("EC2 brought %v, want %s", brought, two)
	}
	r.servesBrought(hosts[1], "two", 0, 0)
}

func TestLaunchTemplateFollowsTheRelease(t *testing.T) {
	r, id := templated(t, policy.TemplatesRole)
	if got := r.ok("doctor"); !strings.Contains(got, "launch templates") || strings.Contains(got, "a publish leaves them as they are") {
		t.Errorf("doctor: %s", got)
	}
	if out := r.publisher("publish", "/srv/source"); out.Code != 0 || !strings.Contains(out.Stderr, "launch template members: version 2 is the default, with snap-") {
		t.Fatalf("exit %d: %s", out.Code, out.Stderr)
	}
	r.follows(id, "the first publish")
	r.publishAs("two")
	r.follows(id, "a publish")
	two, _ := r.named()
	hosts, brought := r.launched(1)
	if !slices.Equal(brought, []string{two}) || r.version(hosts[0]) != "two" {
		t.Errorf("EC2 brought %v, want %s; the member serves %s", brought, two, r.version(hosts[0]))
	}
	for _, c := range r.lab.Account.CallsBy(hosts[0].ID) {
		if c.Action == "CreateVolume" || c.Action == "AttachVolume" {
			t.Errorf("the member with a volume that EC2 brought asked for %s", c.Action)
		}
	}

	r.leaves = true // what is not named is not brought
	three := r.publishAs("three")
	r.follows(id, "a publish whose snapshot is still made")
	r.completed(three.Pending)
	r.ok("snapshot")
	if _, standard, _ := r.template(id); standard != three.Pending {
		t.Errorf("after snapshot the template brings %s, want %s", standard, three.Pending)
	}
	r.leaves = false
	r.publishAs("bad")
	bad, _ := r.named()
	r.ok("rollback")
	r.follows(id, "a rollback")
	if named, _ := r.named(); named == bad {
		t.Errorf("the rollback names %s", bad)
	}

	// During a rollout what launches is brought the stable release.
	r.launched(2)
	r.sh("echo canary > /srv/source/version")
	stable, _ := r.named()
	if out := r.publisher("publish", "/srv/source", "--steps", "1", "--gate", "false", "--no-rollback"); out.Code != 8 {
		t.Fatalf("exit %d: %s", out.Code, out.Stderr)
	}
	r.ok("gc")
	if _, standard, latest := r.template(id); standard != stable || latest != stable {
		t.Errorf("in a rollout the template brings %s and %s, want %s", standard, latest, stable)
	}
	r.ok("rollout", "finish")
	r.ok("snapshot")
	r.follows(id, "the rollout")
	if named, _ := r.named(); named == stable {
		t.Error("the rollout has no snapshot")
	}

	tpl, _, _ := r.template(id)
	if len(tpl.Versions) != 3 { // that of the operator, and two of ours
		t.Errorf("the template has %d versions", len(tpl.Versions))
	}
	if got := r.ok("doctor"); !strings.Contains(got, "its instance refreshes cannot have AutoRollback") || strings.Contains(got, "FAIL") {
		t.Errorf("doctor: %s", got)
	}
}

// TestLaunchTemplateIsMended: a call that fails leaves a warning, and whoever comes next does it.
func TestLaunchTemplateIsMended(t *testing.T) {
	r, id := templated(t, policy.TemplatesRole)
	r.publishAs("one")
	for _, action := range []string{"CreateLaunchTemplateVersion", "ModifyLaunchTemplate"} {
		disarm := r.lab.Account.Fault(cloud.Fault{Action: action, Effect: cloud.Effect{Fail: cloud.Unauthorized}})
		r.sh("date +%N > /srv/source/version")
		out := r.publisher("publish", "/srv/source")
		if out.Code != 0 || !strings.Contains(out.Stderr, "is live: launch template members goes on without snap-") || !strings.Contains(out.Stderr, "ec2:"+action) ||
			!strings.Contains(out.Stderr, "ebs-release converge, which tries again") {
			t.Errorf("%s: exit %d: %s", action, out.Code, out.Stderr)
		}
		for _, verb := range []string{"status", "doctor"} {
			if out := r.publisher(verb); !strings.Contains(out.Stdout, "of launch template members names snap-") && !strings.Contains(out.Stdout, action) {
				t.Errorf("%s: %s", verb, out.Stdout)
			}
		}
		disarm()
		r.ok("converge")
		r.follows(id, "a converge after "+action)
	}
	if got := r.ok("status"); strings.Contains(got, "warning") {
		t.Errorf("status: %s", got)
	}

	// Killed before the version is the default: the timer's gc goes on with it.
	before, _, _ := r.template(id)
	reached := make(chan struct{}, 1)
	disarm := r.lab.Account.Fault(cloud.Fault{Action: "ModifyLaunchTemplate", Times: 1,
		Effect: cloud.Effect{Do: func(cloud.Call) { reached <- struct{}{} }, Fail: cloud.Hang}})
	defer disarm()
	r.sh("echo killed > /srv/source/version")
	ended := make(chan host.Output, 1)
	go func() {
		out, _ := r.server.Run(within(r, 90*time.Second), "sh", "-c", "sh -c 'echo $$ > /run/publisher.pid; exec ebs-release publish /srv/source --wait-snapshot'; exit $?")
		ended <- out
	}()
	select {
	case <-reached:
	case <-time.After(60 * time.Second):
		t.Fatal("the publish does not come to the template")
	}
	r.sh("kill -KILL $(cat /run/publisher.pid)")
	<-ended
	if is, _, _ := r.template(id); is.Default != before.Default {
		t.Fatal("it was not killed in time")
	}
	if out := r.publisher("status"); !strings.Contains(out.Stdout, "of launch template members names snap-") {
		t.Errorf("status: %s", out.Stdout)
	}
	if got := r.ok("gc"); !strings.Contains(got, "is the default, with snap-") {
		t.Errorf("gc: %s", got)
	}
	r.follows(id, "gc")
	if is, _, _ := r.template(id); is.Default != before.Default+1 {
		t.Errorf("the default is version %d, want the one that was made: %d", is.Default, before.Default+1)
	}
}

// TestLaunchTemplateWithoutTheRight: the shipped policy of the publisher changes no template, and
// gc asks what each names.
func TestLaunchTemplateWithoutTheRight(t *testing.T) {
	r, id := templated(t, "ebs-release-publisher")
	out := r.publisher("publish", "/srv/source")
	if out.Code != 0 || !strings.Contains(out.Stderr, "allow ec2:CreateLaunchTemplateVersion in the role of this instance") {
		t.Errorf("exit %d: %s", out.Code, out.Stderr)
	}
	if out := r.publisher("doctor"); !strings.Contains(out.Stdout, "allow ec2:CreateLaunchTemplateVersion") || !strings.Contains(out.Stdout, "a publish leaves them as they are") {
		t.Errorf("doctor: %s", out.Stdout)
	}
	first, _ := r.named()
	// By hand, as an operator's pipeline does: the group's template keeps it, whatever is set.
	_, err := r.ec2.CreateLaunchTemplateVersion(t.Context(), &ec2.CreateLaunchTemplateVersionInput{LaunchTemplateId: &id, SourceVersion: aws.String("1"),
		LaunchTemplateData: &types.RequestLaunchTemplateData{BlockDeviceMappings: []types.LaunchTemplateBlockDeviceMappingRequest{{DeviceName: aws.String("/dev/sdf"),
			Ebs: &types.LaunchTemplateEbsBlockDeviceRequest{SnapshotId: &first}}}}})
	must(t, err)
	for n := range 3 {
		r.sh(fmt.Sprintf("echo %d > /srv/source/version", n))
		r.ok("publish", "/srv/source", "--launch-template", "")
	}
	if got := r.ok("gc", "--grace", "0s", "--dry-run", "--launch-template", ""); !strings.Contains(got, "keeps snapshot "+first) ||
		!strings.Contains(got, "version 2 of launch template "+id+" names it") {
		t.Errorf("gc --dry-run: %s", got)
	}
	if got := r.ok("doctor", "--launch-template", ""); !strings.Contains(got, "no launch-template is set") {
		t.Errorf("doctor: %s", got)
	}

	disarm := r.lab.Account.Fault(cloud.Fault{Action: "DescribeLaunchTemplateVersions", Effect: cloud.Effect{Fail: cloud.Unauthorized}})
	snapshots := len(r.lab.Account.Snapshots())
	refused(t, r.publisher("gc", "--grace", "0s", "--launch-template", ""), 3, "nothing was changed", "ec2:DescribeLaunchTemplateVersions")
	disarm()
	if n := len(r.lab.Account.Snapshots()); n != snapshots {
		t.Errorf("%d snapshots of %d are left", n, snapshots)
	}
	r.ok("gc", "--grace", "0s", "--launch-template", "")
	if !r.usable(first) {
		t.Errorf("%s is gone, and version 2 names it", first)
	}
	_, err = r.ec2.DeleteLaunchTemplateVersions(context.Background(), &ec2.DeleteLaunchTemplateVersionsInput{LaunchTemplateId: &id, Versions: []string{"2"}})
	must(t, err)
	r.ok("gc", "--grace", "0s", "--launch-template", "")
	if r.usable(first) {
		t.Errorf("%s stays, and nobody names it", first)
	}
}
