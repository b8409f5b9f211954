package cloud

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func TestPolicySeesActionsResourcesAndConditions(t *testing.T) {
	var mu sync.Mutex
	var seen []Check
	opts := Options{Policy: func(_ context.Context, c Check) bool {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, c)
		return !strings.HasPrefix(c.Action, "ec2:Delete")
	}}
	inLab(t, opts, func(l *lab) {
		snapshot := l.snapshot(l.volume())
		mu.Lock()
		seen = nil
		mu.Unlock()
		made := l.volume(func(in *ec2.CreateVolumeInput) {
			in.SnapshotId, in.TagSpecifications = &snapshot, tags("volume", "ebs-release:role", "member")
		})
		var got []string
		for _, c := range seen {
			got = append(got, c.Action+" "+c.Resource)
		}
		want := []string{
			"ec2:CreateTags arn:aws:ec2:us-east-1:123456789012:volume/*",
			"ec2:CreateVolume arn:aws:ec2:us-east-1::snapshot/" + snapshot,
			"ec2:CreateVolume arn:aws:ec2:us-east-1:123456789012:volume/*",
		}
		if !slices.Equal(got, want) {
			t.Errorf("asked %v, want %v", got, want)
		}
		for n, key := range map[int]string{0: "ec2:CreateAction=CreateVolume", 2: "aws:RequestTag/ebs-release:role=member"} {
			name, value, _ := strings.Cut(key, "=")
			if c := seen[n].Conditions[name]; !slices.Equal(c, []string{value}) {
				t.Errorf("%s: %s is %v", seen[n].Action, name, c)
			}
		}
		seen = nil
		_, err := l.ec2.DeleteVolume(l.ctx, &ec2.DeleteVolumeInput{VolumeId: &made, DryRun: aws.Bool(true)})
		l.wantCode(err, "UnauthorizedOperation")
		if err != nil && !strings.Contains(err.Error(), "ec2:DeleteVolume on resource: arn:aws:ec2:us-east-1:123456789012:volume/"+made) {
			t.Errorf("message %v", err)
		}
		if c := seen[0].Conditions["aws:ResourceTag/ebs-release:role"]; !slices.Equal(c, []string{"member"}) {
			t.Errorf("the volume's tags: %v", seen[0].Conditions)
		}
	})
}

func TestDryRunOfEveryCall(t *testing.T) {
	allow := true
	opts := Options{Policy: func(context.Context, Check) bool { return allow }}
	inLab(t, opts, func(l *lab) {
		v, i, s := aws.String("vol-0123456789abcdef0"), aws.String("i-0123456789abcdef0"), aws.String("snap-0123456789abcdef0")
		template := aws.String("lt-0123456789abcdef0")
		yes, ctx, ids := aws.Bool(true), l.ctx, []string{"i-0123456789abcdef0"}
		tag := []types.Tag{{Key: aws.String("k"), Value: aws.String("v")}}
		calls := map[string]func() error{
			"CreateVolume": func() error {
				_, err := l.ec2.CreateVolume(ctx, &ec2.CreateVolumeInput{DryRun: yes, AvailabilityZone: aws.String("us-east-1a"), SnapshotId: s})
				return err
			},
			"DescribeVolumes": func() error { _, err := l.ec2.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{DryRun: yes}); return err },
			"DescribeVolumeStatus": func() error {
				_, err := l.ec2.DescribeVolumeStatus(ctx, &ec2.DescribeVolumeStatusInput{DryRun: yes})
				return err
			},
			"DeleteVolume": func() error {
				_, err := l.ec2.DeleteVolume(ctx, &ec2.DeleteVolumeInput{DryRun: yes, VolumeId: v})
				return err
			},
			"AttachVolume": func() error {
				_, err := l.ec2.AttachVolume(ctx, &ec2.AttachVolumeInput{DryRun: yes, VolumeId: v, InstanceId: i, Device: aws.String("/dev/xvdaa")})
				return err
			},
			"DetachVolume": func() error {
				_, err := l.ec2.DetachVolume(ctx, &ec2.DetachVolumeInput{DryRun: yes, VolumeId: v})
				return err
			},
			"ModifyInstanceAttribute": func() error {
				_, err := l.ec2.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{DryRun: yes, InstanceId: i,
					BlockDeviceMappings: []types.InstanceBlockDeviceMappingSpecification{{DeviceName: aws.String("/dev/xvdaa")}}})
				return err
			},
			"CreateSnapshot": func() error {
				_, err := l.ec2.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{DryRun: yes, VolumeId: v})
				return err
			},
			"DescribeSnapshots": func() error {
				_, err := l.ec2.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{DryRun: yes})
				return err
			},
			"DeleteSnapshot": func() error {
				_, err := l.ec2.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{DryRun: yes, SnapshotId: s})
				return err
			},
			"RunInstances": func() error {
				_, err := l.ec2.RunInstances(ctx, &ec2.RunInstancesInput{DryRun: yes, ImageId: aws.String("ami-1"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1)})
				return err
			},
			"DescribeInstances": func() error {
				_, err := l.ec2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{DryRun: yes})
				return err
			},
			"TerminateInstances": func() error {
				_, err := l.ec2.TerminateInstances(ctx, &ec2.TerminateInstancesInput{DryRun: yes, InstanceIds: ids})
				return err
			},
			"StopInstances": func() error {
				_, err := l.ec2.StopInstances(ctx, &ec2.StopInstancesInput{DryRun: yes, InstanceIds: ids})
				return err
			},
			"StartInstances": func() error {
				_, err := l.ec2.StartInstances(ctx, &ec2.StartInstancesInput{DryRun: yes, InstanceIds: ids})
				return err
			},
			"RebootInstances": func() error {
				_, err := l.ec2.RebootInstances(ctx, &ec2.RebootInstancesInput{DryRun: yes, InstanceIds: ids})
				return err
			},
			"CreateTags": func() error {
				_, err := l.ec2.CreateTags(ctx, &ec2.CreateTagsInput{DryRun: yes, Resources: ids, Tags: tag})
				return err
			},
			"DeleteTags": func() error {
				_, err := l.ec2.DeleteTags(ctx, &ec2.DeleteTagsInput{DryRun: yes, Resources: ids, Tags: tag})
				return err
			},
			"DescribeTags": func() error { _, err := l.ec2.DescribeTags(ctx, &ec2.DescribeTagsInput{DryRun: yes}); return err },
			"DescribeAvailabilityZones": func() error {
				_, err := l.ec2.DescribeAvailabilityZones(ctx, &ec2.DescribeAvailabilityZonesInput{DryRun: yes})
				return err
			},
			"GetEbsEncryptionByDefault": func() error {
				_, err := l.ec2.GetEbsEncryptionByDefault(ctx, &ec2.GetEbsEncryptionByDefaultInput{DryRun: yes})
				return err
			},
			"GetEbsDefaultKmsKeyId": func() error {
				_, err := l.ec2.GetEbsDefaultKmsKeyId(ctx, &ec2.GetEbsDefaultKmsKeyIdInput{DryRun: yes})
				return err
			},
			"CreateLaunchTemplate": func() error {
				_, err := l.ec2.CreateLaunchTemplate(ctx, &ec2.CreateLaunchTemplateInput{DryRun: yes, LaunchTemplateName: aws.String("web"),
					LaunchTemplateData: &types.RequestLaunchTemplateData{ImageId: aws.String("ami-1")}})
				return err
			},
			"CreateLaunchTemplateVersion": func() error {
				_, err := l.ec2.CreateLaunchTemplateVersion(ctx, &ec2.CreateLaunchTemplateVersionInput{DryRun: yes, LaunchTemplateId: template,
					LaunchTemplateData: &types.RequestLaunchTemplateData{ImageId: aws.String("ami-1")}})
				return err
			},
			"DescribeLaunchTemplates": func() error {
				_, err := l.ec2.DescribeLaunchTemplates(ctx, &ec2.DescribeLaunchTemplatesInput{DryRun: yes})
				return err
			},
			"DescribeLaunchTemplateVersions": func() error {
				_, err := l.ec2.DescribeLaunchTemplateVersions(ctx, &ec2.DescribeLaunchTemplateVersionsInput{DryRun: yes, LaunchTemplateId: template})
				return err
			},
			"ModifyLaunchTemplate": func() error {
				_, err := l.ec2.ModifyLaunchTemplate(ctx, &ec2.ModifyLaunchTemplateInput{DryRun: yes, LaunchTemplateId: template, DefaultVersion: aws.String("1")})
				return err
			},
			"DeleteLaunchTemplateVersions": func() error {
				_, err := l.ec2.DeleteLaunchTemplateVersions(ctx, &ec2.DeleteLaunchTemplateVersionsInput{DryRun: yes, LaunchTemplateId: template, Versions: []string{"1"}})
				return err
			},
			"DescribeRegions": func() error { _, err := l.ec2.DescribeRegions(ctx, &ec2.DescribeRegionsInput{DryRun: yes}); return err },
		}
		for name := range l.actions {
			if action, ok := strings.CutPrefix(name, "ec2:"); ok && calls[action] == nil {
				t.Errorf("%s has no test", action)
			}
		}
		for name, call := range calls {
			allow = true
			if got := codeOf(call()); got != "DryRunOperation" {
				t.Errorf("%s allowed: %q", name, got)
			}
			allow = false
			if got := codeOf(call()); got != "UnauthorizedOperation" {
				t.Errorf("%s forbidden: %q", name, got)
			}
		}
		_, err := l.asg.DescribeAutoScalingGroups(ctx, &autoscaling.DescribeAutoScalingGroupsInput{})
		l.wantCode(err, "AccessDenied")
	})
}

func TestZonesAndRegions(t *testing.T) {
	inLab(t, Options{Region: "eu-west-1"}, func(l *lab) {
		zones, err := l.ec2.DescribeAvailabilityZones(l.ctx, &ec2.DescribeAvailabilityZonesInput{})
		l.ok(err)
		got := ""
		for _, z := range zones.AvailabilityZones {
			got += fmt.Sprint(*z.ZoneName, " ", z.State, " ")
		}
		if got != "eu-west-1a available eu-west-1b available " {
			t.Errorf("zones %s", got)
		}
		_, err = l.ec2.DescribeAvailabilityZones(l.ctx, &ec2.DescribeAvailabilityZonesInput{ZoneNames: []string{"us-east-1a"}})
		l.wantCode(err, "InvalidParameterValue")
		regions, err := l.ec2.DescribeRegions(l.ctx, &ec2.DescribeRegionsInput{})
		l.ok(err)
		if len(regions.Regions) != 1 || *regions.Regions[0].RegionName != "eu-west-1" {
			t.Errorf("regions %+v", regions.Regions)
		}
	})
}

func TestUnknownActionIsRefused(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		_, err := l.ec2.DescribeVpcs(l.ctx, &ec2.DescribeVpcsInput{})
		l.wantCode(err, "InvalidAction")
	})
}

func TestWildcards(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"a", "a", true}, {"a", "ab", false}, {"a*", "abc", true}, {"*c", "abc", true}, {"a*c*", "abcd", true}, {"?", "", false},
		{"a?c", "abc", true}, {`a\*`, "a*", true}, {`a\*`, "ab", false}, {"*", "", true}, {`\`, `\`, true},
	} {
		if got := wildcard(c.pattern, c.s); got != c.want {
			t.Errorf("wildcard(%q, %q) = %v", c.pattern, c.s, got)
		}
	}
}
