package account

import (
	"context"
	"sync"
	"time"

	"ebs-release/internal/fleet"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	astypes "github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// publisher lists the members as a publish does that waits for them, until it is told to stop.
func (w *stormWorld) publisher() (stop func() []listing) {
	cfg := w.admin()
	cfg.Retryer = func() aws.Retryer { return volume.PublisherRetryer() }
	api := ec2.NewFromConfig(cfg)
	ctx, cancel := context.WithCancel(w.Context())
	var seen []listing
	var lists sync.WaitGroup
	lists.Go(func() {
		for ctx.Err() == nil {
			began := time.Now()
			_, err := fleet.List(ctx, groupOf{w}, api, nil, []string{"web"})
			if ctx.Err() == nil {
				seen = append(seen, listing{time.Since(began), err})
			}
			time.Sleep(5 * time.Second) // publish: at most this long between two listings while members boot
		}
	})
	return func() []listing {
		cancel()
		lists.Wait()
		return seen
	}
}

// groupOf is fleet.Groups: the instances of the account are one group.
type groupOf struct{ *stormWorld }

func (g groupOf) DescribeAutoScalingGroups(context.Context, *autoscaling.DescribeAutoScalingGroupsInput, ...func(*autoscaling.Options),
) (*autoscaling.DescribeAutoScalingGroupsOutput, error) {
	group := astypes.AutoScalingGroup{AutoScalingGroupName: aws.String("web")}
	for _, i := range g.account.Instances() {
		group.Instances = append(group.Instances, astypes.Instance{InstanceId: &i.ID, LifecycleState: astypes.LifecycleStateInService})
	}
	return &autoscaling.DescribeAutoScalingGroupsOutput{AutoScalingGroups: []astypes.AutoScalingGroup{group}}, nil
}
