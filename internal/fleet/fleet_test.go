package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"ebs-release/internal/fleet"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	astypes "github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
)

// account is a fake of func-less data: groups by name, and EC2's lists in pages of two.
type account struct {
	groups    []astypes.AutoScalingGroup
	instances []types.Instance
	volumes   []types.Volume
	mu        sync.Mutex // of calls: two lists are asked for side by side
	calls     []string
	tagged    [][]string
	done      []string // volumes that have their tags
	fail      error
	refused   []string // volumes for which EC2 refuses CreateTags
	code      string   // the error's
}

func (a *account) note(call string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, call)
}

func (a *account) DescribeAutoScalingGroups(_ context.Context, in *autoscaling.DescribeAutoScalingGroupsInput, _ ...func(*autoscaling.Options)) (*autoscaling.DescribeAutoScalingGroupsOutput, error) {
	a.note("groups")
	if a.fail != nil {
		return nil, a.fail
	}
	var found []astypes.AutoScalingGroup
	for _, g := range a.groups {
		if slices.Contains(in.AutoScalingGroupNames, aws.ToString(g.AutoScalingGroupName)) {
			found = append(found, g)
		}
	}
	page, next := cut(found, in.NextToken)
	return &autoscaling.DescribeAutoScalingGroupsOutput{AutoScalingGroups: page, NextToken: next}, nil
}

func (a *account) DescribeInstances(_ context.Context, in *ec2.DescribeInstancesInput, _ ...func(*ec2.Options)) (*ec2.DescribeInstancesOutput, error) {
	a.note("instances")
	if err := accepted(in.Filters, in.MaxResults); err != nil {
		return nil, err
	}
	wanted := in.Filters[0].Values
	var found []types.Instance
	for _, i := range a.instances {
		if slices.Contains(wanted, aws.ToString(i.InstanceId)) {
			found = append(found, i)
		}
	}
	page, next := cut(found, in.NextToken)
	return &ec2.DescribeInstancesOutput{Reservations: []types.Reservation{{Instances: page}}, NextToken: next}, nil
}

func (a *account) DescribeVolumes(_ context.Context, in *ec2.DescribeVolumesInput, _ ...func(*ec2.Options)) (*ec2.DescribeVolumesOutput, error) {
	a.note("volumes")
	if err := accepted(in.Filters, in.MaxResults); err != nil {
		return nil, err
	}
	var found []types.Volume
	for _, v := range a.volumes {
		matches := true
		for _, f := range in.Filters {
			if aws.ToString(f.Name) == "volume-id" {
				matches = matches && slices.Contains(f.Values, aws.ToString(v.VolumeId))
				continue
			}
			if aws.ToString(f.Name) == "status" && v.State != "" {
				matches = matches && slices.Contains(f.Values, string(v.State))
				continue
			}
			key := strings.TrimPrefix(aws.ToString(f.Name), "tag:")
			matches = matches && slices.ContainsFunc(v.Tags, func(t types.Tag) bool {
				return aws.ToString(t.Key) == key && slices.Contains(f.Values, aws.ToString(t.Value))
			})
		}
		if matches {
			found = append(found, v)
		}
	}
	page, next := cut(found, in.NextToken)
	return &ec2.DescribeVolumesOutput{Volumes: page, NextToken: next}, nil
}

func (a *account) CreateTags(_ context.Context, in *ec2.CreateTagsInput, _ ...func(*ec2.Options)) (*ec2.CreateTagsOutput, error) {
	a.tagged = append(a.tagged, in.Resources)
	if slices.ContainsFunc(in.Resources, func(id string) bool { return slices.Contains(a.refused, id) }) {
		return nil, &smithy.GenericAPIError{Code: a.code, Message: "No."}
	}
	if a.fail == nil {
		a.done = append(a.done, in.Resources...)
	}
	return &ec2.CreateTagsOutput{}, a.fail
}

// cut gives page token of all, two at a time. accepted: EC2 takes 200 values in all filters of a
// call together (row 36), and wants to be asked for pages (row 42).
func accepted(filters []types.Filter, max *int32) error {
	values := 0
	for _, f := range filters {
		values += len(f.Values)
	}
	switch {
	case values > 200:
		return &smithy.GenericAPIError{Code: "FilterLimitExceeded", Message: fmt.Sprintf("%d values, EC2 takes 200", values)}
	case aws.ToInt32(max) == 0:
		return errors.New("there is no MaxResults")
	}
	return nil
}

func cut[T any](all []T, token *string) ([]T, *string) {
	from, _ := strconv.Atoi(aws.ToString(token))
	to := min(from+2, len(all))
	if to == len(all) {
		return all[from:], nil
	}
	return all[from:to], aws.String(strconv.Itoa(to))
}

func group(name string, instances ...string) astypes.AutoScalingGroup {
	g := astypes.AutoScalingGroup{AutoScalingGroupName: aws.String(name)}
	for _, id := range instances {
		g.Instances = append(g.Instances, astypes.Instance{InstanceId: aws.String(id), LifecycleState: astypes.LifecycleStateInService, AvailabilityZone: aws.String("us-east-1a")})
	}
	return g
}

func instance(id, address string, state types.InstanceStateName) types.Instance {
	return types.Instance{InstanceId: aws.String(id), PrivateIpAddress: aws.String(address), State: &types.InstanceState{Name: state}}
}

func vol(id, attachedTo string, tags ...string) types.Volume {
	v := types.Volume{VolumeId: aws.String(id), Tags: []types.Tag{{Key: aws.String(volume.TagRole), Value: aws.String(volume.RoleMember)}}}
	for i := 0; i < len(tags); i += 2 {
		v.Tags = append(v.Tags, types.Tag{Key: aws.String(tags[i]), Value: aws.String(tags[i+1])})
	}
	if attachedTo != "" {
		v.Attachments = []types.VolumeAttachment{{InstanceId: aws.String(attachedTo)}}
	}
	return v
}

func TestListJoinsGroupsInstancesAndReportsOverPages(t *testing.T) {
	a := &account{
		groups: []astypes.AutoScalingGroup{group("web", "i-3", "i-1"), group("api", "i-2"), group("batch", "i-4"), group("other", "i-9")},
		instances: []types.Instance{
			instance("i-1", "10.0.0.1", types.InstanceStateNameRunning), instance("i-2", "10.0.0.2", types.InstanceStateNameRunning),
			instance("i-3", "10.0.0.3", types.InstanceStateNamePending), instance("i-4", "10.0.0.4", types.InstanceStateNameRunning),
		},
		volumes: []types.Volume{
			vol("vol-1", "i-1", volume.TagInstance, "i-1", volume.TagGeneration, "7", volume.TagRelease, "20261122T231500Z-9f31c0de77aa", volume.TagState, "ready", volume.TagHostKey, "ssh-ed25519 A"),
			vol("vol-2", "i-2", volume.TagInstance, "i-2", volume.TagGeneration, "6", volume.TagState, "booting"),
			vol("vol-4", "i-4", volume.TagInstance, "i-4", volume.TagGeneration, "not a number"),
		},
	}
	got, err := fleet.List(context.Background(), a, a, nil, []string{"web", "api", "batch"})
	if err != nil {
		t.Fatal(err)
	}
	az := "us-east-1a"
	want := []fleet.Member{
		{InstanceID: "i-2", Group: "api", LifecycleState: "InService", AvailabilityZone: az, Machine: "running", Address: "10.0.0.2", VolumeID: "vol-2", Made: "vol-2", Generation: 6, State: "booting"},
		{InstanceID: "i-4", Group: "batch", LifecycleState: "InService", AvailabilityZone: az, Machine: "running", Address: "10.0.0.4", VolumeID: "vol-4", Made: "vol-4", Ignored: "not a number", State: "unknown"},
		{InstanceID: "i-1", Group: "web", LifecycleState: "InService", AvailabilityZone: az, Machine: "running", Address: "10.0.0.1", VolumeID: "vol-1", Made: "vol-1", Generation: 7, Release: "20261122T231500Z-9f31c0de77aa", State: "ready", HostKey: "ssh-ed25519 A"},
		{InstanceID: "i-3", Group: "web", LifecycleState: "InService", AvailabilityZone: az, Machine: "pending", Address: "10.0.0.3", State: "unknown"},
	}
	if !slices.Equal(got, want) {
		t.Fatalf("List:\n got %+v\nwant %+v", got, want)
	}
	if !slices.Equal(slices.Sorted(slices.Values(a.calls)), []string{"groups", "groups", "instances", "instances", "volumes", "volumes"}) {
		t.Errorf("calls = %v: each list has two pages", a.calls)
	}
}

// TestAFleetOfAnySize: batches end where a call is full, and every member is listed with its
// report; so are orphans and volumes that are gone.
func TestAFleetOfAnySize(t *testing.T) {
	for _, size := range []int{1, 199, 200, 201, 450} {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			a := &account{}
			var ids []string
			for i := range size {
				id := fmt.Sprintf("i-%04d", i)
				ids = append(ids, id)
				a.instances = append(a.instances, instance(id, "10.0.0.1", types.InstanceStateNameRunning))
				a.volumes = append(a.volumes, vol("vol-"+id, id, volume.TagInstance, id, volume.TagGeneration, "7"))
			}
			a.groups = []astypes.AutoScalingGroup{group("web", ids...)}
			members, err := fleet.List(t.Context(), a, a, nil, []string{"web"})
			if err != nil || len(members) != size {
				t.Fatalf("%d members, %v", len(members), err)
			}
			for _, m := range members {
				if m.Address == "" || m.Generation != 7 {
					t.Errorf("%+v", m)
				}
			}
			for i := range a.volumes { // all instances are gone
				a.volumes[i].Attachments = nil
				a.volumes[i].State = types.VolumeStateAvailable
			}
			a.instances = nil
			orphans, err := fleet.Orphans(t.Context(), a)
			if err != nil || len(orphans) != size {
				t.Errorf("%d orphans, %v", len(orphans), err)
			}
		})
	}
}

func TestUnknownGroupIsNamed(t *testing.T) {
	a := &account{groups: []astypes.AutoScalingGroup{group("web", "i-1")}}
	_, err := fleet.List(context.Background(), a, a, nil, []string{"web", "wbe"})
	if err == nil || !strings.Contains(err.Error(), `no Auto Scaling group "wbe"`) {
		t.Fatalf("error = %v", err)
	}
}

func TestNoGroupsMeansNoCall(t *testing.T) {
	a := &account{} // Auto Scaling would take an empty list of names for "all groups"
	got, err := fleet.List(context.Background(), a, a, nil, nil)
	if err != nil || len(got) != 0 || len(a.calls) != 0 {
		t.Fatalf("List = %v, %v after %v", got, err, a.calls)
	}
}

func TestWhoIsGoneIsNotAMember(t *testing.T) {
	g := group("web", "i-1", "i-2", "i-3")
	g.Instances[1].LifecycleState = astypes.LifecycleStateTerminated
	a := &account{groups: []astypes.AutoScalingGroup{g}, instances: []types.Instance{instance("i-1", "10.0.0.1", types.InstanceStateNameTerminated)}}
	got, err := fleet.List(context.Background(), a, a, nil, []string{"web"})
	if err != nil {
		t.Fatal(err)
	}
	// i-3 is unknown to EC2: it may be so new that EC2 does not find it yet, so it stays a member.
	if len(got) != 1 || got[0].InstanceID != "i-3" || got[0].Address != "" {
		t.Fatalf("List = %+v", got)
	}
}

func TestOnlyAnAttachedVolumeSpeaksForAMember(t *testing.T) {
	a := &account{
		groups:    []astypes.AutoScalingGroup{group("web", "i-1")},
		instances: []types.Instance{instance("i-1", "10.0.0.1", types.InstanceStateNameRunning)},
		volumes: []types.Volume{
			vol("vol-stray", "", volume.TagInstance, "i-1", volume.TagGeneration, "99"),
			vol("vol-forged", "i-2", volume.TagInstance, "i-1", volume.TagGeneration, "98"),
			vol("vol-old", "i-1", volume.TagInstance, "i-1", volume.TagGeneration, "4"),
			vol("vol-new", "i-1", volume.TagInstance, "i-1", volume.TagGeneration, "5"),
		},
	}
	got, err := fleet.List(context.Background(), a, a, nil, []string{"web"})
	if err != nil || len(got) != 1 || got[0].VolumeID != "vol-new" || got[0].Generation != 5 {
		t.Fatalf("List = %+v, %v", got, err)
	}
}

// Row 85: it is attached, and of the newest generation, but its agent could not remove it.
func TestAVolumeThatWasLeftSpeaksForNobody(t *testing.T) {
	left := vol("vol-left", "i-1", volume.TagInstance, "i-1", volume.TagGeneration, "9", volume.TagState, volume.StateLeft, volume.TagHostKey, "ssh-ed25519 A")
	a := &account{
		groups:    []astypes.AutoScalingGroup{group("web", "i-1")},
		instances: []types.Instance{instance("i-1", "10.0.0.1", types.InstanceStateNameRunning)},
		volumes:   []types.Volume{left},
	}
	got, err := fleet.List(t.Context(), a, a, nil, []string{"web"})
	if err != nil || len(got) != 1 || got[0].VolumeID != "" || got[0].Generation != 0 || got[0].State != fleet.StateUnknown || got[0].HostKey != "" {
		t.Errorf("alone: %+v, %v", got, err)
	}
	a.volumes = append(a.volumes, vol("vol-served", "i-1", volume.TagInstance, "i-1", volume.TagGeneration, "5", volume.TagState, volume.StateReady))
	got, err = fleet.List(t.Context(), a, a, nil, []string{"web"})
	if err != nil || len(got) != 1 || got[0].VolumeID != "vol-served" || got[0].Generation != 5 || got[0].State != volume.StateReady {
		t.Errorf("beside the one that is served: %+v, %v", got, err)
	}
}

func TestManyMembersAreAskedForInBatches(t *testing.T) {
	a := &account{}
	var ids []string
	for i := range 450 {
		ids = append(ids, fmt.Sprintf("i-%04d", i))
		a.instances = append(a.instances, instance(ids[i], "10.0.0.1", types.InstanceStateNameRunning))
	}
	a.groups = []astypes.AutoScalingGroup{group("web", ids...)}
	got, err := fleet.List(context.Background(), a, a, nil, []string{"web"})
	if err != nil || len(got) != 450 {
		t.Fatalf("List has %d members, %v", len(got), err)
	}
}

func TestErrorsSayWhatWasAsked(t *testing.T) {
	a := &account{fail: errors.New("AccessDenied")}
	if _, err := fleet.List(context.Background(), a, a, nil, []string{"web"}); err == nil || !strings.Contains(err.Error(), "ask Auto Scaling for the members of web: AccessDenied") {
		t.Fatalf("List: %v", err)
	}
}

func TestMemberWithoutIPv4HasItsIPv6Address(t *testing.T) {
	a := &account{
		groups: []astypes.AutoScalingGroup{{AutoScalingGroupName: aws.String("web"), Instances: []astypes.Instance{
			{InstanceId: aws.String("i-4")}, {InstanceId: aws.String("i-6")},
		}}},
		instances: []types.Instance{
			{InstanceId: aws.String("i-4"), PrivateIpAddress: aws.String("10.0.0.4"), Ipv6Address: aws.String("2001:db8::4")},
			{InstanceId: aws.String("i-6"), Ipv6Address: aws.String("2001:db8::6")},
		},
	}
	members, err := fleet.List(t.Context(), a, a, nil, []string{"web"})
	if err != nil || len(members) != 2 || members[0].Address != "10.0.0.4" || members[1].Address != "2001:db8::6" {
		t.Errorf("%+v, %v", members, err)
	}
}

func TestGenerationThatIsNoneIsBehindEverything(t *testing.T) {
	for _, tag := range []string{"9223372036854775807", "9223372036854775808", "9007199254740992", "-1", "x"} {
		a := &account{
			groups: []astypes.AutoScalingGroup{{AutoScalingGroupName: aws.String("web"), Instances: []astypes.Instance{{InstanceId: aws.String("i-1")}}}},
			volumes: []types.Volume{{
				VolumeId: aws.String("vol-1"), Attachments: []types.VolumeAttachment{{InstanceId: aws.String("i-1")}},
				Tags: []types.Tag{
					{Key: aws.String(volume.TagRole), Value: aws.String(volume.RoleMember)}, {Key: aws.String(volume.TagInstance), Value: aws.String("i-1")},
					{Key: aws.String(volume.TagGeneration), Value: aws.String(tag)},
				},
			}},
		}
		members, err := fleet.List(t.Context(), a, a, nil, []string{"web"})
		if err != nil || len(members) != 1 || members[0].VolumeID != "vol-1" || members[0].Generation != 0 || members[0].Ignored != tag {
			t.Errorf("%s: %+v, %v", tag, members, err)
		}
	}
}

// What Auto Scaling thinks of a member's health, and who ended its machine, is there from the same
// answers.
func TestHowAMemberEnds(t *testing.T) {
	g := group("web", "i-1", "i-2")
	g.Instances[0].HealthStatus, g.Instances[1].HealthStatus = aws.String("Unhealthy"), aws.String("Healthy")
	ended := instance("i-1", "10.0.0.1", types.InstanceStateNameShuttingDown)
	ended.StateReason = &types.StateReason{Code: aws.String("Server.SpotInstanceTermination")}
	a := &account{
		groups:    []astypes.AutoScalingGroup{g},
		instances: []types.Instance{ended, instance("i-2", "10.0.0.2", types.InstanceStateNameRunning)},
	}
	got, err := fleet.List(t.Context(), a, a, nil, []string{"web"})
	if err != nil || len(got) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if m := got[0]; !m.Unhealthy || m.Machine != "shutting-down" || m.Ended != "Server.SpotInstanceTermination" {
		t.Errorf("%+v", m)
	}
	if m := got[1]; m.Unhealthy || m.Machine != "running" || m.Ended != "" {
		t.Errorf("%+v", m)
	}
}
