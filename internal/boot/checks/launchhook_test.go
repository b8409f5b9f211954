package checks

import (
	"testing"

	"ebs-release/internal/doctor"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
)

func TestHookOf(t *testing.T) {
	hook := func(name, of, result string, seconds int32) []types.LifecycleHook {
		return []types.LifecycleHook{{LifecycleHookName: &name, LifecycleTransition: aws.String("autoscaling:EC2_INSTANCE_" + of),
			DefaultResult: &result, HeartbeatTimeout: &seconds}}
	}
	for name, c := range map[string]struct {
		hooks []types.LifecycleHook
		want  doctor.State
	}{
		"as it is to be":  {hook("ours", "LAUNCHING", "ABANDON", 600), doctor.OK},
		"none":            {nil, doctor.Fail},
		"another one":     {hook("other", "LAUNCHING", "ABANDON", 600), doctor.Fail},
		"of the way out":  {hook("ours", "TERMINATING", "ABANDON", 600), doctor.Fail},
		"too short":       {hook("ours", "LAUNCHING", "ABANDON", 30), doctor.Warn},
		"lets anybody in": {hook("ours", "LAUNCHING", "CONTINUE", 600), doctor.Warn},
	} {
		if f := hookOf(c.hooks, "app", "ours"); f.State != c.want {
			t.Errorf("%s: %+v, want %v", name, f, c.want)
		}
	}
}
