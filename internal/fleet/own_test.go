package fleet_test

import (
	"testing"

	"ebs-release/internal/fleet"
	"ebs-release/internal/report"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// with is an instance with volumes by device, and tags of its own.
func with(devices map[string]string, tags ...string) ec2types.Instance {
	i := instance("i-1", "10.0.0.1", ec2types.InstanceStateNameRunning)
	i.RootDeviceName = aws.String("/dev/xvda")
	for device, id := range devices {
		i.BlockDeviceMappings = append(i.BlockDeviceMappings, ec2types.InstanceBlockDeviceMapping{
			DeviceName: aws.String(device), Ebs: &ec2types.EbsInstanceBlockDevice{VolumeId: aws.String(id)},
		})
	}
	for n := 0; n < len(tags); n += 2 {
		i.Tags = append(i.Tags, ec2types.Tag{Key: aws.String(tags[n]), Value: aws.String(tags[n+1])})
	}
	return i
}

// TestTagsOfTheInstance: what an instance says of a volume that EC2 brought counts as long as that
// is attached, and beside a volume that was made for it by the same rule as all reports.
func TestTagsOfTheInstance(t *testing.T) {
	attached := map[string]string{"/dev/xvda": "vol-root", "/dev/xvdf": "vol-b"}
	says := func(id, generation string) []string {
		return []string{volume.TagVolume, id, volume.TagGeneration, generation, volume.TagState, volume.StateReady, volume.TagHostKey, "ssh-ed25519 A"}
	}
	own := func(generation, state string) []ec2types.Volume {
		return []ec2types.Volume{vol("vol-1", "i-1", volume.TagInstance, "i-1", volume.TagGeneration, generation, volume.TagState, state)}
	}
	for _, tc := range []struct {
		name       string
		instance   ec2types.Instance
		volumes    []ec2types.Volume
		generation int64
		volume     string
		state      string
		tagged     string
	}{
		{"it is attached", with(attached, says("vol-b", "7")...), nil, 7, "vol-b", volume.StateReady, "i-1"},
		{"it is not", with(map[string]string{"/dev/xvda": "vol-root"}, says("vol-b", "7")...), nil, 0, "", fleet.StateUnknown, ""},
		{"it is the root's", with(attached, says("vol-root", "7")...), nil, 0, "", fleet.StateUnknown, ""},
		{"it names none", with(attached, volume.TagGeneration, "7", volume.TagState, volume.StateReady), nil, 0, "", fleet.StateUnknown, ""},
		{"an own one went further", with(attached, says("vol-b", "7")...), own("8", volume.StateReady), 8, "vol-1", volume.StateReady, "vol-1"},
		{"an own one is as far", with(attached, says("vol-b", "7")...), own("7", volume.StateReady), 7, "vol-1", volume.StateReady, "vol-1"},
		{"an own one that has served nobody", with(attached, says("vol-b", "7")...), own("7", volume.StateBooting), 7, "vol-b", volume.StateReady, "i-1"},
		{"a lie about another's", with(attached, append(says("vol-2", "9"), volume.TagInstance, "i-2")...), nil, 0, "", fleet.StateUnknown, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := &account{groups: []types.AutoScalingGroup{group("web", "i-1")}, instances: []ec2types.Instance{tc.instance}, volumes: tc.volumes}
			got, err := fleet.List(t.Context(), a, a, nil, []string{"web"})
			if err != nil || len(got) != 1 {
				t.Fatalf("%+v, %v", got, err)
			}
			if m := got[0]; m.Generation != tc.generation || m.VolumeID != tc.volume || m.State != tc.state || m.Tagged() != tc.tagged {
				t.Errorf("%+v, whose tags are of %q", m, m.Tagged())
			}
		})
	}
}

// An object in the store may be about what came with the instance.
func TestObjectsAboutWhatEC2Brought(t *testing.T) {
	a := &account{groups: []types.AutoScalingGroup{group("web", "i-1")}, instances: []ec2types.Instance{
		with(map[string]string{"/dev/xvda": "vol-root", "/dev/xvdf": "vol-b"}),
	}}
	in := &objects{says: map[string]report.Report{
		"i-1": {Caller: "AROAEXAMPLE:i-1", InstanceID: "i-1", Generation: 7, State: volume.StateReady, VolumeID: "vol-b"},
	}}
	got, err := fleet.List(t.Context(), a, a, in, []string{"web"})
	if err != nil || got[0].VolumeID != "vol-b" || got[0].Generation != 7 || got[0].Tagged() != "vol-b" {
		t.Errorf("%+v, %v", got, err)
	}
	if w := in.wanted["i-1"]; len(w.Volumes) != 1 || w.Volumes[0] != "vol-b" || w.Least != 0 {
		t.Errorf("asked for %+v", w)
	}
}

// An instance that is gone keeps no other from its tags.
func TestReportOnInstances(t *testing.T) {
	a := &account{
		instances: []ec2types.Instance{instance("i-1", "10.0.0.1", ec2types.InstanceStateNameRunning)},
		volumes:   []ec2types.Volume{vol("vol-1", "i-2")},
		refused:   []string{"i-9"}, code: "InvalidInstanceID.NotFound",
	}
	if err := fleet.Report(t.Context(), a, []string{"i-1", "i-9", "vol-1"}, 7, "r7", ""); err != nil {
		t.Fatal(err)
	}
	if last := a.tagged[len(a.tagged)-1]; len(last) != 2 {
		t.Errorf("tagged %v", a.tagged)
	}
}
