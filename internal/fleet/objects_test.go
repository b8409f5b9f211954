package fleet_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"ebs-release/internal/fleet"
	"ebs-release/internal/report"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// objects is a store in S3 that has these reports, one a member.
type objects struct {
	says   map[string]report.Report
	wanted map[string]report.Wanted
	err    error
}

func (o *objects) Newest(_ context.Context, members map[string]report.Wanted) (map[string]report.Report, error) {
	o.wanted = members
	return o.says, o.err
}

// TestTagsAndObjects: which of the two speaks for a member.
func TestTagsAndObjects(t *testing.T) {
	const booting, ready, failed = volume.StateBooting, volume.StateReady, volume.StateHookFailed
	type says struct {
		generation, state string // of the tags; "": there is no volume
	}
	for _, tc := range []struct {
		name       string
		tags       says
		object     report.Report // of vol-1
		generation int64
		state      string
	}{
		{"a boot", says{"7", booting}, report.Report{Generation: 7, State: ready}, 7, ready},
		{"a boot that went on to another generation", says{"7", booting}, report.Report{Generation: 8, State: ready}, 8, ready},
		{"an agent that writes tags", says{"7", ready}, report.Report{}, 7, ready},
		{"the same after an older agent had the volume", says{"8", ready}, report.Report{Generation: 7, State: ready}, 8, ready},
		{"programs failed, and then they did not", says{"7", ready}, report.Report{Generation: 7, State: failed}, 7, ready},
		{"the same by tags and an object", says{"7", failed}, report.Report{Generation: 7, State: ready}, 7, ready},
		{"tags that are no generation", says{"x", ready}, report.Report{Generation: 7, State: ready}, 7, ready},
		{"none at all", says{"7", booting}, report.Report{}, 7, booting},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := &account{
				groups:    []types.AutoScalingGroup{group("web", "i-1", "i-2")},
				instances: []ec2types.Instance{instance("i-1", "10.0.0.1", ec2types.InstanceStateNameRunning)},
				volumes: []ec2types.Volume{
					vol("vol-1", "i-1", volume.TagInstance, "i-1", volume.TagGeneration, tc.tags.generation, volume.TagState, tc.tags.state, volume.TagStore, "0123456789abcdef"),
					vol("vol-9", "i-1", volume.TagInstance, "i-1", volume.TagGeneration, "9", volume.TagState, volume.StateLeft),
				},
			}
			in := &objects{says: map[string]report.Report{}}
			if r := tc.object; r.State != "" {
				r.Caller, r.InstanceID, r.VolumeID, r.HostKey = "AROAEXAMPLE:i-1", "i-1", "vol-1", "ssh-ed25519 A"
				in.says["i-1"] = r
			}
			got, err := fleet.List(t.Context(), a, a, in, []string{"web"})
			if err != nil || len(got) != 2 {
				t.Fatalf("%+v, %v", got, err)
			}
			m := got[0]
			if m.Generation != tc.generation || m.State != tc.state || m.VolumeID != "vol-1" || m.Ignored != "" || m.Store == "" {
				t.Errorf("%+v", m)
			}
			if (m.HostKey != "") != (tc.object.State != "") || (m.Caller == "AROAEXAMPLE:i-1") != (tc.object.State != "") {
				t.Errorf("%+v: its host key and its name in the store", m)
			}
			least := int64(7)
			switch tc.tags.generation {
			case "8":
				least = 8
			case "x":
				least = 0
			}
			w := in.wanted["i-1"]
			if !slices.Equal(slices.Collect(maps.Keys(in.wanted)), []string{"i-1"}) || !slices.Equal(w.Volumes, []string{"vol-1"}) || w.Least != least {
				t.Errorf("asked for %+v: only volumes that speak, and no older reports", in.wanted)
			}
		})
	}
}

func TestAStoreThatDoesNotAnswerIsAnError(t *testing.T) {
	a := &account{groups: []types.AutoScalingGroup{group("web", "i-1")}}
	_, err := fleet.List(t.Context(), a, a, &objects{err: errors.New("403")}, []string{"web"})
	if err == nil || !strings.Contains(err.Error(), "read what members have reported to the store: 403") {
		t.Error(err)
	}
}
