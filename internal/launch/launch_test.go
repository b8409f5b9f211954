package launch

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/aws/smithy-go"
	smithytime "github.com/aws/smithy-go/time"
)

// group is an Auto Scaling group with this instance, as time makes it. The hook waits from waits
// on.
type group struct {
	start    time.Time
	listed   time.Duration // when the instance appears in listings
	waits    time.Duration // when it waits for the hook
	denies   string        // a call that is not allowed
	waitsFor string        // the name of its hook
	result   string        // what the hook was told
	state    string        // once it was told, or from the beginning
	told     time.Duration // when
	beats    []time.Duration
}

func (g *group) now() string {
	switch since := time.Since(g.start); {
	case g.state != "":
		return g.state
	case since < g.waits:
		return "Pending"
	}
	return "Pending:Wait"
}

func (g *group) refused(call string) error {
	if call == g.denies {
		return &smithy.GenericAPIError{Code: "AccessDenied", Message: "User is not authorized to perform: autoscaling:" + call}
	}
	return nil
}

func (g *group) active(name *string) error {
	if g.now() != "Pending:Wait" || *name != g.waitsFor {
		return &smithy.GenericAPIError{Code: "ValidationError", Message: "No active Lifecycle Action found with instance ID i-1"}
	}
	return nil
}

func (g *group) DescribeAutoScalingInstances(_ context.Context, in *autoscaling.DescribeAutoScalingInstancesInput, _ ...func(*autoscaling.Options)) (*autoscaling.DescribeAutoScalingInstancesOutput, error) {
	out := &autoscaling.DescribeAutoScalingInstancesOutput{}
	if time.Since(g.start) >= g.listed {
		out.AutoScalingInstances = []types.AutoScalingInstanceDetails{{
			InstanceId: &in.InstanceIds[0], AutoScalingGroupName: aws.String("web"), LifecycleState: aws.String(g.now()),
		}}
	}
	return out, g.refused("DescribeAutoScalingInstances")
}

func (g *group) CompleteLifecycleAction(_ context.Context, in *autoscaling.CompleteLifecycleActionInput, _ ...func(*autoscaling.Options)) (*autoscaling.CompleteLifecycleActionOutput, error) {
	if err := errors.Join(g.refused("CompleteLifecycleAction"), g.active(in.LifecycleHookName)); err != nil {
		return nil, err
	}
	g.result, g.state, g.told = *in.LifecycleActionResult, "Pending:Proceed", time.Since(g.start)
	return &autoscaling.CompleteLifecycleActionOutput{}, nil
}

func (g *group) RecordLifecycleActionHeartbeat(_ context.Context, in *autoscaling.RecordLifecycleActionHeartbeatInput, _ ...func(*autoscaling.Options)) (*autoscaling.RecordLifecycleActionHeartbeatOutput, error) {
	if err := g.active(in.LifecycleHookName); err != nil {
		return nil, err
	}
	g.beats = append(g.beats, time.Since(g.start))
	return &autoscaling.RecordLifecycleActionHeartbeatOutput{}, nil
}

// machine boots: ready at a time, and failing every 30 s before that.
type machine struct {
	start   time.Time
	ready   time.Duration
	serves  time.Duration
	takes   time.Duration // a round of its programs
	hangs   bool          // and nobody can end it
	machine bool
}

func (m machine) boot() (Boot, error) {
	since := time.Since(m.start)
	if since >= m.ready {
		return Boot{Ready: true}, nil
	}
	b := Boot{Says: "no release yet", Machine: m.machine}
	if failed := since.Truncate(30 * time.Second); failed > 0 {
		b.Ended = m.start.Add(failed)
	}
	return b, nil
}

func (m machine) serving(ctx context.Context) error {
	if m.hangs {
		ctx = context.WithoutCancel(ctx)
	}
	if err := smithytime.SleepWithContext(ctx, m.takes); err != nil {
		return err
	}
	if time.Since(m.start) < m.serves {
		return errors.New("not yet")
	}
	return nil
}

func launched(t *testing.T, g *group, m machine, limit time.Duration) (took time.Duration, err error) {
	t.Helper()
	g.start, m.start = time.Now(), time.Now()
	if g.waitsFor == "" {
		g.waitsFor = "ebs-release"
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	err = Hook{API: g, Name: "ebs-release", InstanceID: "i-1", Boot: m.boot, Serves: m.serving,
		Target: func(context.Context) (string, error) { return "", nil }, // not told
		Log:    slog.New(slog.DiscardHandler), Timing: DefaultTiming()}.Run(ctx)
	if g.result != "" { // what comes after that is a watch
		return g.told, err
	}
	return time.Since(g.start), err
}

func TestALaunchIsCompletedWhenTheInstanceServes(t *testing.T) {
	for name, tc := range map[string]struct {
		group   group
		machine machine
		most    time.Duration
	}{
		"at once":                          {group{}, machine{}, 5 * time.Second},
		"when the release is there":        {group{}, machine{ready: 40 * time.Second}, 45 * time.Second},
		"when the programs succeed":        {group{}, machine{ready: time.Second, serves: 50 * time.Second}, 55 * time.Second},
		"programs that take long":          {group{}, machine{takes: 2 * time.Minute}, 125 * time.Second},
		"and more than once":               {group{}, machine{takes: 40 * time.Second, serves: 50 * time.Second}, 90 * time.Second},
		"faster than the group (row 37)":   {group{waits: 2 * time.Minute}, machine{}, 125 * time.Second},
		"before it is listed":              {group{listed: time.Minute, waits: time.Minute}, machine{}, 65 * time.Second},
		"after hours without any release":  {group{}, machine{ready: 10 * time.Hour}, 10*time.Hour + 5*time.Second},
		"after failures of the machine":    {group{}, machine{ready: 80 * time.Second, machine: true}, 85 * time.Second},
		"the group waits, and then it too": {group{waits: time.Minute}, machine{ready: 3 * time.Minute}, 185 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				took, err := launched(t, &tc.group, tc.machine, 24*time.Hour)
				if err != nil || tc.group.result != "CONTINUE" || took > tc.most {
					t.Fatalf("%s after %v, %v", tc.group.result, took, err)
				}
				if took < max(tc.machine.ready, tc.machine.serves) {
					t.Errorf("completed after %v, and it served after %v", took, max(tc.machine.ready, tc.machine.serves))
				}
				// The shortest time-out that a hook can have is 30 s.
				last := tc.group.waits
				for _, at := range append(tc.group.beats, took) {
					if at-last > 30*time.Second {
						t.Fatalf("no heartbeat from %v to %v", last, at)
					}
					last = at
				}
			})
		})
	}
}

// Then the group decides, when the time-out of its hook is over.
func TestALaunchWhoseProgramsCannotBeEndedHasNoHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, m := group{}, machine{takes: time.Hour, hangs: true}
		_, err := launched(t, &g, m, 30*time.Minute)
		if last := g.beats[len(g.beats)-1]; err == nil || g.result != "" || last < 9*time.Minute || last > 10*time.Minute {
			t.Errorf("%q, %v; heartbeats until %v", g.result, err, last)
		}
		time.Sleep(time.Hour) // for the program
	})
}

func TestALaunchThatAnotherMachineMayDoBetterIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := group{}
		took, err := launched(t, &g, machine{ready: time.Hour, machine: true}, 24*time.Hour)
		if err != nil || g.result != "ABANDON" || took > 95*time.Second {
			t.Errorf("%q after %v, %v", g.result, took, err)
		}
	})
}

func TestALaunchThatIsOverIsLeftAlone(t *testing.T) {
	for _, state := range []string{"InService", "Standby", "Terminating:Wait", "Pending:Proceed"} {
		synctest.Test(t, func(t *testing.T) {
			g := group{state: state}
			took, err := launched(t, &g, machine{}, time.Hour)
			if err != nil || g.result != "" || took > 10*time.Minute {
				t.Errorf("%s: %q after %v, %v", state, g.result, took, err)
			}
		})
	}
}

func TestLaunchesThatCannotBeCompletedSayWhy(t *testing.T) {
	for name, tc := range map[string]struct {
		group group
		want  string
	}{
		"in no group":              {group{listed: time.Hour}, "no Auto Scaling group has the instance i-1"},
		"another hook":             {group{waitsFor: "drain"}, `not for the hook "ebs-release"`},
		"may not look":             {group{denies: "DescribeAutoScalingInstances"}, "allow autoscaling:DescribeAutoScalingInstances"},
		"may not complete":         {group{denies: "CompleteLifecycleAction"}, "launch-hook.json"},
		"its time is up (SIGTERM)": {group{waits: time.Hour}, "No active Lifecycle Action"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				took, err := launched(t, &tc.group, machine{}, 30*time.Minute)
				if err == nil || !strings.Contains(err.Error(), tc.want) || took > 31*time.Minute || tc.group.result != "" {
					t.Errorf("%v after %v, want %q", err, took, tc.want)
				}
			})
		})
	}
}
