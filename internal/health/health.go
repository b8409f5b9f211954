// Package health says which members of the groups are healthy, and why the others are not: by Auto
// Scaling's word, or by that of the load balancers' target groups. A rollout goes on by it.
//
// What cannot be asked is an error, and what nobody says is unhealthy: a member is healthy only
// when each one that knows has said so.
package health

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/fleet"
	"ebs-release/internal/words"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	astypes "github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// Kinds of health: the values of the setting healthy.
const (
	Programs     = "programs"      // the members' own programs have succeeded, as their report says: nobody else is asked
	Group        = "group"         // Auto Scaling has the member Healthy and InService
	TargetGroups = "target-groups" // it is healthy in every target group of its group
)

// Kinds are all of them.
func Kinds() []string { return []string{Programs, Group, TargetGroups} }

// lookTime is for one look at all members, answers that did not come included.
const lookTime = 30 * time.Second

// groupsPerCall is the most that DescribeAutoScalingGroups takes and gives (its API reference).
const groupsPerCall = 100

// AutoScaling is what a Checker needs of Auto Scaling.
type AutoScaling interface {
	DescribeAutoScalingGroups(context.Context, *autoscaling.DescribeAutoScalingGroupsInput,
		...func(*autoscaling.Options)) (*autoscaling.DescribeAutoScalingGroupsOutput, error)
	DescribeInstanceRefreshes(context.Context, *autoscaling.DescribeInstanceRefreshesInput,
		...func(*autoscaling.Options)) (*autoscaling.DescribeInstanceRefreshesOutput, error)
}

// Balancers is what a Checker needs of Elastic Load Balancing, for TargetGroups.
type Balancers interface {
	DescribeTargetHealth(context.Context, *elb.DescribeTargetHealthInput,
		...func(*elb.Options)) (*elb.DescribeTargetHealthOutput, error)
}

// Checker asks about members.
type Checker struct {
	Kind      string
	Groups    AutoScaling
	Balancers Balancers // for TargetGroups; else nil
}

// Look returns, by instance id, why members are not healthy; those that are are not in it. After an
// error nothing is known of any of them. A member in Standby is not healthy: its operator has taken
// the traffic from it, so nothing is known of the release on it. Nor is one that is on its way in
// or out. It takes half a minute at most.
func (c Checker) Look(ctx context.Context, members []fleet.Member) (map[string]string, error) {
	if c.Kind == Programs || len(members) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	groups, err := c.groups(ctx, members)
	if err != nil {
		return nil, err
	}
	switch c.Kind {
	case Group:
		return byGroup(groups, members), nil
	case TargetGroups:
		return c.byTargetGroups(ctx, groups, members)
	}
	return nil, advice.Try(fmt.Errorf("%q is no kind of health", c.Kind), "one of %s", strings.Join(Kinds(), ", "))
}

type groupsByName map[string]astypes.AutoScalingGroup

// groups asks for the groups of members, by name.
func (c Checker) groups(ctx context.Context, members []fleet.Member) (groupsByName, error) {
	var names []string
	for _, m := range members {
		names = append(names, m.Group)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	groups := groupsByName{}
	for batch := range slices.Chunk(names, groupsPerCall) {
		in := &autoscaling.DescribeAutoScalingGroupsInput{AutoScalingGroupNames: batch, MaxRecords: aws.Int32(groupsPerCall)}
		for page := 0; ; page++ {
			out, err := c.Groups.DescribeAutoScalingGroups(ctx, in, boundAutoScaling)
			if err != nil {
				return nil, refused("autoscaling:DescribeAutoScalingGroups", "ask Auto Scaling about "+strings.Join(batch, ", "), err)
			}
			for _, g := range out.AutoScalingGroups {
				groups[aws.ToString(g.AutoScalingGroupName)] = g
			}
			if in.NextToken = out.NextToken; aws.ToString(in.NextToken) == "" {
				break
			}
			if page > len(batch) { // a page has a group at least
				return nil, fmt.Errorf("ask Auto Scaling about %s: its answer does not end", strings.Join(batch, ", "))
			}
		}
	}
	return groups, nil
}

// instanceOf finds a member in its group's answer.
func instanceOf(groups groupsByName, m fleet.Member) (astypes.Instance, bool) {
	all := groups[m.Group].Instances
	at := slices.IndexFunc(all, func(i astypes.Instance) bool { return aws.ToString(i.InstanceId) == m.InstanceID })
	if at < 0 {
		return astypes.Instance{}, false
	}
	return all[at], true
}

func byGroup(groups groupsByName, members []fleet.Member) map[string]string {
	reasons := map[string]string{}
	for _, m := range members {
		i, ok := instanceOf(groups, m)
		health := aws.ToString(i.HealthStatus) // "The value is Healthy or Unhealthy" (Instance)
		switch {
		case !ok:
			reasons[m.InstanceID] = "it is not in the group " + m.Group + " any more"
		case i.LifecycleState == astypes.LifecycleStateStandby:
			reasons[m.InstanceID] = standby(m)
		case i.LifecycleState != astypes.LifecycleStateInService:
			reasons[m.InstanceID] = fmt.Sprintf("%s in the group %s, not InService", foreign(string(i.LifecycleState)), m.Group)
		case health != "Healthy":
			reasons[m.InstanceID] = fmt.Sprintf("%s in the group %s", orUnknown(health), m.Group)
		}
	}
	return reasons
}

func standby(m fleet.Member) string {
	return advice.Text("in Standby in the group "+m.Group+": it gets no traffic",
		fmt.Sprintf("aws autoscaling exit-standby --auto-scaling-group-name %s --instance-ids %s", m.Group, m.InstanceID))
}

// targetGroupsOf are the ARNs of the target groups of a group, by whichever of the two calls they
// were attached (AttachLoadBalancerTargetGroups, AttachTrafficSources).
func targetGroupsOf(g astypes.AutoScalingGroup) []string {
	arns := slices.Clone(g.TargetGroupARNs)
	for _, s := range g.TrafficSources {
		if aws.ToString(s.Type) == "elbv2" || strings.HasPrefix(aws.ToString(s.Identifier), "arn:") && s.Type == nil {
			arns = append(arns, aws.ToString(s.Identifier))
		}
	}
	slices.Sort(arns)
	return slices.Compact(arns)
}

// byTargetGroups asks each target group once, for all of its targets: the call has no pages.
func (c Checker) byTargetGroups(ctx context.Context, groups groupsByName, members []fleet.Member) (map[string]string, error) {
	reasons := map[string]string{}
	asked := map[string]map[string]string{} // target group -> instance -> why it is not healthy there; "": it is
	for _, m := range members {
		i, ok := instanceOf(groups, m)
		if !ok {
			reasons[m.InstanceID] = "it is not in the group " + m.Group + " any more"
			continue
		}
		arns := targetGroupsOf(groups[m.Group])
		if len(arns) == 0 {
			return nil, advice.Try(fmt.Errorf("the group %s has no target group to ask about health", m.Group),
				"`healthy = \"%s\"`, or attach one (aws autoscaling attach-traffic-sources)", Group)
		}
		if i.LifecycleState == astypes.LifecycleStateStandby { // out of its target groups, too
			reasons[m.InstanceID] = standby(m)
			continue
		}
		for _, arn := range arns {
			if asked[arn] == nil {
				states, err := c.targets(ctx, arn)
				if err != nil {
					return nil, err
				}
				asked[arn] = states
			}
			why, registered := asked[arn][m.InstanceID]
			if !registered {
				why = "not registered in the target group " + targetGroupName(arn)
			}
			if why != "" {
				reasons[m.InstanceID] = why
				break
			}
		}
	}
	return reasons, nil
}

// targets are the instances of a target group and why they are not healthy there, "" when they are.
// One that is a target on several ports has to be healthy on each.
func (c Checker) targets(ctx context.Context, arn string) (map[string]string, error) {
	out, err := c.Balancers.DescribeTargetHealth(ctx, &elb.DescribeTargetHealthInput{TargetGroupArn: &arn}, boundBalancing)
	if err != nil {
		return nil, refused("elasticloadbalancing:DescribeTargetHealth",
			"ask Elastic Load Balancing about the target group "+targetGroupName(arn), err)
	}
	states := map[string]string{}
	for _, d := range out.TargetHealthDescriptions {
		if d.Target == nil {
			continue
		}
		id := aws.ToString(d.Target.Id)
		h := d.TargetHealth
		if h == nil {
			h = &elbtypes.TargetHealth{}
		}
		if h.State == elbtypes.TargetHealthStateEnumHealthy {
			if _, known := states[id]; !known {
				states[id] = ""
			}
			continue
		}
		why := orUnknown(string(h.State)) + " in the target group " + targetGroupName(arn)
		if h.Reason != "" {
			why += ": " + foreign(string(h.Reason))
		}
		if text := aws.ToString(h.Description); text != "" {
			why += " (" + foreign(text) + ")"
		}
		states[id] = why
	}
	return states, nil
}

// targetGroupName is what a person calls it: the NAME in arn:…:targetgroup/NAME/ID.
func targetGroupName(arn string) string {
	if parts := strings.Split(arn, "/"); len(parts) == 3 {
		return foreign(parts[1])
	}
	return foreign(arn)
}

// foreign is text of another program, for a line.
func foreign(text string) string { return words.Printable(fmt.Sprintf("%.200s", text)) }

func orUnknown(state string) string {
	if state == "" {
		return "of unknown health"
	}
	return foreign(state)
}
