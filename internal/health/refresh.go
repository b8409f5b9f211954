package health

import (
	"context"
	"fmt"
	"slices"

	"ebs-release/internal/advice"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	astypes "github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
)

// Idle is an error when an instance refresh is going on in one of the groups: it replaces members
// while a rollout would count them. One whose state is not known counts as going on.
func (c Checker) Idle(ctx context.Context, groups []string) error {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	over := []astypes.InstanceRefreshStatus{
		astypes.InstanceRefreshStatusSuccessful, astypes.InstanceRefreshStatusFailed, astypes.InstanceRefreshStatusCancelled,
		astypes.InstanceRefreshStatusRollbackFailed, astypes.InstanceRefreshStatusRollbackSuccessful,
	}
	for _, name := range groups {
		// The first page is enough: they come newest first, and only the newest can be going on
		// (DescribeInstanceRefreshes; StartInstanceRefresh, error InstanceRefreshInProgress).
		out, err := c.Groups.DescribeInstanceRefreshes(ctx, &autoscaling.DescribeInstanceRefreshesInput{AutoScalingGroupName: aws.String(name)},
			boundAutoScaling)
		if err != nil {
			return refused("autoscaling:DescribeInstanceRefreshes", "ask whether an instance refresh runs on "+name, err)
		}
		for _, r := range out.InstanceRefreshes {
			if !slices.Contains(over, r.Status) {
				return advice.Try(fmt.Errorf("the instance refresh %s (%s) replaces the members of the group %s",
					foreign(aws.ToString(r.InstanceRefreshId)), orUnknown(string(r.Status)), name),
					"wait for its end, or end it: `aws autoscaling cancel-instance-refresh --auto-scaling-group-name %s`", name)
			}
		}
	}
	return nil
}
