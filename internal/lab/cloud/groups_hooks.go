package cloud

import (
	"slices"
	"time"
)

type hookXML struct {
	AutoScalingGroupName, LifecycleHookName, LifecycleTransition, DefaultResult string
	HeartbeatTimeout, GlobalTimeout                                             int32
}

// describeHooks is not paged: "If you do not specify lifecycle hook names, all hooks are returned"
// (DescribeLifecycleHooks).
func describeHooks(c *call) (any, error) {
	p := c.params
	name, names := p.need("AutoScalingGroupName"), p.list("LifecycleHookNames.member")
	return c.ofGroup(name, func(_ *Account, g Group) (any, error) {
		out := struct{ LifecycleHooks members[hookXML] }{}
		for _, h := range g.Hooks {
			if len(names) > 0 && !slices.Contains(names, h.Name) {
				continue
			}
			x := hookXML{
				AutoScalingGroupName: g.Name, LifecycleHookName: h.Name, LifecycleTransition: "autoscaling:EC2_INSTANCE_TERMINATING",
				DefaultResult: "CONTINUE", HeartbeatTimeout: int32(h.Timeout / time.Second), GlobalTimeout: int32(hookLimit(h.Timeout) / time.Second),
			}
			if h.Launch {
				x.LifecycleTransition = "autoscaling:EC2_INSTANCE_LAUNCHING"
			}
			if h.Abandon {
				x.DefaultResult = "ABANDON"
			}
			out.LifecycleHooks.Items = append(out.LifecycleHooks.Items, x)
		}
		return out, nil
	})
}
