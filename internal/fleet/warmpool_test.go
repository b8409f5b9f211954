package fleet_test

import (
	"context"
	"strings"
	"testing"

	"ebs-release/internal/fleet"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	astypes "github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
)

// pools is an account whose group web has a warm pool.
type pools struct {
	*account
	warm  []astypes.Instance
	asked []string
	deny  bool
}

func (p *pools) DescribeWarmPool(_ context.Context, in *autoscaling.DescribeWarmPoolInput, _ ...func(*autoscaling.Options)) (*autoscaling.DescribeWarmPoolOutput, error) {
	p.asked = append(p.asked, aws.ToString(in.AutoScalingGroupName))
	if p.deny {
		return nil, &smithy.GenericAPIError{Code: "AccessDenied", Message: "not authorized to perform: autoscaling:DescribeWarmPool"}
	}
	page, next := cut(p.warm, in.NextToken)
	return &autoscaling.DescribeWarmPoolOutput{Instances: page, NextToken: next}, nil
}

func TestWhoIsInAWarmPoolIsNoMember(t *testing.T) {
	state := func(id string, s astypes.LifecycleState) astypes.Instance {
		return astypes.Instance{InstanceId: &id, LifecycleState: s, AvailabilityZone: aws.String("us-east-1a")}
	}
	web, api := group("web", "i-1"), group("api")
	web.WarmPoolConfiguration = &astypes.WarmPoolConfiguration{}
	web.Instances = append(web.Instances, state("i-9", astypes.LifecycleStateWarmedPending)) // if Auto Scaling should list it here
	p := &pools{account: &account{
		groups:    []astypes.AutoScalingGroup{web, api},
		instances: []types.Instance{instance("i-1", "10.0.0.1", types.InstanceStateNameRunning), instance("i-2", "10.0.0.2", types.InstanceStateNameStopped)},
		volumes:   []types.Volume{vol("vol-2", "i-2", "ebs-release:instance", "i-2", "ebs-release:generation", "7", "ebs-release:state", "ready")},
	}, warm: []astypes.Instance{
		state("i-3", astypes.LifecycleStateWarmedRunning), state("i-2", astypes.LifecycleStateWarmedStopped), state("i-4", astypes.LifecycleStateWarmedTerminated),
	}}
	members, err := fleet.List(t.Context(), p, p, nil, []string{"web", "api"})
	if err != nil || len(members) != 1 || members[0].InstanceID != "i-1" || members[0].Warmed() {
		t.Errorf("members %+v, %v", members, err)
	}
	warmed, err := fleet.Warmed(t.Context(), p, p, nil, []string{"web", "api"})
	if err != nil || len(warmed) != 2 || !warmed[0].Warmed() || warmed[0].InstanceID != "i-2" || warmed[0].Generation != 7 || warmed[1].InstanceID != "i-3" {
		t.Errorf("warmed %+v, %v", warmed, err)
	}
	if got := strings.Join(p.asked, " "); got != "web web" { // two pages
		t.Errorf("asked for the pools of %s", got)
	}
	p.deny = true
	if _, err := fleet.Warmed(t.Context(), p, p, nil, []string{"web"}); err == nil || !strings.Contains(err.Error(), "allow autoscaling:DescribeWarmPool") {
		t.Errorf("%v", err)
	}
}
