package checks

import (
	"context"
	"time"

	"ebs-release/internal/doctor"
	"ebs-release/internal/launch"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
)

// noAction is a token of no lifecycle action: who may end one is told that there is none, and
// nothing changes.
const noAction = "00000000-0000-0000-0000-000000000000"

// launchHook looks at the hook that the agent is to complete, in the group that has this instance.
func (c *Checks) launchHook(ctx context.Context) doctor.Finding {
	name := c.settings.LaunchHook
	if name == "" {
		return doctor.Fine("none is to be completed")
	}
	if f, ready := c.ready(); !ready {
		return f
	}
	api := autoscaling.NewFromConfig(*c.cfg)
	mine, err := api.DescribeAutoScalingInstances(ctx, &autoscaling.DescribeAutoScalingInstancesInput{InstanceIds: []string{c.me.InstanceID}})
	if err != nil {
		return c.refusal("autoscaling:DescribeAutoScalingInstances", err)
	}
	if len(mine.AutoScalingInstances) == 0 {
		return doctor.Warning("leave launch-hook empty in an image that is started without a group",
			"no Auto Scaling group has %s", c.me.InstanceID)
	}
	group := mine.AutoScalingInstances[0].AutoScalingGroupName
	token := aws.String(noAction)
	for action, call := range map[string]func() error{
		"autoscaling:CompleteLifecycleAction": func() error {
			_, err := api.CompleteLifecycleAction(ctx, &autoscaling.CompleteLifecycleActionInput{AutoScalingGroupName: group,
				LifecycleHookName: &name, LifecycleActionToken: token, LifecycleActionResult: aws.String("CONTINUE")})
			return err
		},
		"autoscaling:RecordLifecycleActionHeartbeat": func() error {
			_, err := api.RecordLifecycleActionHeartbeat(ctx, &autoscaling.RecordLifecycleActionHeartbeatInput{AutoScalingGroupName: group,
				LifecycleHookName: &name, LifecycleActionToken: token})
			return err
		},
	} {
		if err := call(); err != nil && !volume.IsNoLifecycleAction(err) {
			return c.refusal(action, err)
		}
	}
	hooks, err := api.DescribeLifecycleHooks(ctx, &autoscaling.DescribeLifecycleHooksInput{AutoScalingGroupName: group})
	switch {
	case volume.IsDenied(err):
		return doctor.Warning("allow autoscaling:DescribeLifecycleHooks (only the doctor uses it)",
			"whether %s has the hook %s is not known (%s)", *group, name, refusalWords(err, "autoscaling:DescribeLifecycleHooks"))
	case err != nil:
		return c.refusal("autoscaling:DescribeLifecycleHooks", err)
	}
	return hookOf(hooks.LifecycleHooks, *group, name)
}

// hookOf is what is to be said of a hook of that name.
func hookOf(hooks []types.LifecycleHook, group, name string) doctor.Finding {
	const launching = "autoscaling:EC2_INSTANCE_LAUNCHING"
	for _, h := range hooks {
		if aws.ToString(h.LifecycleHookName) != name {
			continue
		}
		timeout := time.Duration(aws.ToInt32(h.HeartbeatTimeout)) * time.Second
		switch least := 2 * launch.DefaultTiming().Beat; {
		case aws.ToString(h.LifecycleTransition) != launching:
			return doctor.Failure("give launch-hook the name of a hook for "+launching,
				"%s of %s is for %s", name, group, aws.ToString(h.LifecycleTransition))
		case timeout < least:
			return doctor.Warning("a heartbeat timeout of a minute or more",
				"%s of %s ends after %v, and one heartbeat that is late, of one each %v, ends the launch",
				name, group, timeout, launch.DefaultTiming().Beat)
		case aws.ToString(h.DefaultResult) != "ABANDON":
			return doctor.Warning("the default result ABANDON",
				"%s of %s lets an instance into service that never serves, after %v", name, group, timeout)
		}
		return doctor.Fine("%s of %s, %v from one heartbeat to the next; it may be completed", name, group, timeout)
	}
	return doctor.Failure("make the hook, or give launch-hook the name of the one that the group has",
		"the group %s has no hook %s: nothing waits for this member", group, name)
}
