package fleet

import (
	"context"
	"fmt"
	"strings"

	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	astypes "github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
)

// Pools is what Warmed needs of Auto Scaling.
type Pools interface {
	Groups
	DescribeWarmPool(context.Context, *autoscaling.DescribeWarmPoolInput,
		...func(*autoscaling.Options)) (*autoscaling.DescribeWarmPoolOutput, error)
}

// Warmed says whether an instance is in a warm pool. It is no member: it serves nothing, and reads
// the pointer on its way into service.
func (m Member) Warmed() bool { return strings.HasPrefix(m.LifecycleState, "Warmed:") }

// perPool is the most that DescribeWarmPool gives at once (MaxRecords).
const perPool = 50

// Warmed returns the instances in the warm pools of groups, as List does members. It takes a call
// for each group that has a pool.
func Warmed(ctx context.Context, asg Pools, machines Machines, store Reports, groups []string) ([]Member, error) {
	_, pools, err := membership(ctx, asg, groups)
	if err != nil {
		return nil, err
	}
	var warmed []Member
	for _, group := range pools {
		pages := autoscaling.NewDescribeWarmPoolPaginator(asg, &autoscaling.DescribeWarmPoolInput{
			AutoScalingGroupName: aws.String(group), MaxRecords: aws.Int32(perPool),
		})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if volume.IsDenied(err) {
				err = volume.Denied(err, "autoscaling:DescribeWarmPool")
			}
			if err != nil {
				return nil, fmt.Errorf("ask Auto Scaling for the warm pool of %s: %w", group, err)
			}
			for _, i := range page.Instances {
				if i.LifecycleState != astypes.LifecycleStateWarmedTerminated {
					warmed = append(warmed, memberOf(aws.String(group), i))
				}
			}
		}
	}
	return complete(ctx, machines, store, warmed)
}
