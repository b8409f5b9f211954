// Package launch keeps an Auto Scaling group's launch hook: the instance gets traffic when it
// serves its release, and not before ("Amazon EC2 Auto Scaling lifecycle hooks"). And it closes the
// gate, which a boot has opened for the application (boot.Gate), of an instance that goes back into
// the group's warm pool while it runs.
//
// The hook waits on the way into a warm pool, too, and again on the way from there into service
// ("Use lifecycle hooks with a warm pool"): the first time it is told when the volume is prepared.
//
// While the boot goes on, or fails for a reason that may go away, the hook is told so (a
// heartbeat), as often as its time-out wants. A release that no instance can serve is such a
// reason, too: a new instance would do no better, and the group would replace them for ever. The
// launch is given up only where another machine may do better: when no disk comes of the volume,
// boot after boot.
package launch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	smithytime "github.com/aws/smithy-go/time"
)

// API is what is asked of Auto Scaling.
type API interface {
	DescribeAutoScalingInstances(context.Context, *autoscaling.DescribeAutoScalingInstancesInput, ...func(*autoscaling.Options)) (
		*autoscaling.DescribeAutoScalingInstancesOutput, error)
	CompleteLifecycleAction(context.Context, *autoscaling.CompleteLifecycleActionInput, ...func(*autoscaling.Options)) (
		*autoscaling.CompleteLifecycleActionOutput, error)
	RecordLifecycleActionHeartbeat(context.Context, *autoscaling.RecordLifecycleActionHeartbeatInput, ...func(*autoscaling.Options)) (
		*autoscaling.RecordLifecycleActionHeartbeatOutput, error)
}

// Boot is where the boot of this instance is.
type Boot struct {
	Ready   bool
	Since   time.Time // it has been ready
	Closing bool      // its gate was to be closed, and no boot has begun since: who closed it may have been killed
	Warmed  bool      // it is prepared, in a warm pool, and serves nothing
	Ended   time.Time // when the last boot failed; zero: none has
	Machine bool      // what failed then is this machine's own
	Says    string    // for the log
}

// Hook is the launches of one instance.
type Hook struct {
	API        API
	Name       string                                          // of the lifecycle hook; "": the group has none that is ours
	Target     func(context.Context) (state string, err error) // the target lifecycle state; "": in no group
	Close      func(context.Context) error                     // the gate, and boots anew
	InstanceID string
	Boot       func() (Boot, error)
	Serves     func(ctx context.Context) error // nil: the application can take traffic
	Log        *slog.Logger
	Timing     Timing
}

// Timing of a launch.
type Timing struct {
	Poll  time.Duration // between two looks at the boot
	Beat  time.Duration // between two heartbeats; the shortest time-out of a hook is 30 s (LifecycleHook, HeartbeatTimeout)
	Call  time.Duration // for one call
	Known time.Duration // how long a group that does not have the instance is asked again
	Round time.Duration // for all programs that say whether the application serves
	Close time.Duration // from closing a gate to trying that again
}

// DefaultTiming is for a real instance.
func DefaultTiming() Timing {
	return Timing{
		Poll: time.Second, Beat: 25 * time.Second, Call: 20 * time.Second, Known: 3 * time.Minute, Round: 10 * time.Minute, Close: time.Minute,
	}
}

// mostFailures of this machine's own, one after the other, are no accident.
const mostFailures = 3

// The results of a lifecycle action.
const (
	goOn   = "CONTINUE"
	giveUp = "ABANDON"
)

// Run completes each launch of this instance, and watches where it belongs meanwhile. It returns
// when no group has the instance. An error means that the group does not know how a launch ended,
// and that another try may do better.
func (h Hook) Run(ctx context.Context) error {
	w := &watch{Hook: h}
	for launching := true; ; {
		w.done = w.target
		if launching && h.Name != "" {
			if err := w.launch(ctx); err != nil {
				return err
			}
		}
		before := w.done
		if w.untilMoved(ctx) {
			return nil
		}
		// Back into the pool: what waits there is a hook of the termination ("Warm pool example
		// events and patterns").
		launching = before == "" || warmed(before) || !warmed(w.target)
	}
}

// launch ends when the group knows how this launch ended: by this call, by another one, or long
// ago.
func (w *watch) launch(ctx context.Context) error {
	group, state, err := w.where(ctx)
	if err != nil {
		return err
	}
	w.done = w.target
	if !waits(state) {
		w.Log.Info("no launch to complete", "group", group, "state", state)
		return nil
	}
	err = w.untilServes(ctx, group)
	w.done = w.target
	if err != nil {
		if abandoned, ok := errors.AsType[machineError](err); ok {
			w.Log.Error("giving this launch up", "group", group, "error", abandoned)
			return w.complete(ctx, group, giveUp)
		}
		return err
	}
	return w.complete(ctx, group, goOn)
}

// waits says whether an instance in a lifecycle state waits for its launch, or will. A Warmed: one
// is on its way into a warm pool ("Lifecycle state transitions for instances in a warm pool").
func waits(state string) bool {
	state = strings.TrimPrefix(state, "Warmed:")
	return state == "Pending" || state == "Pending:Wait"
}

// late: the listing is from before the group took the instance out of its warm pool.
func (w *watch) late(state string) bool { return warmed(state) && w.target == "InService" }

// where asks for the group and the lifecycle state. An instance that is not listed may be a new
// one: listings are late.
func (w *watch) where(ctx context.Context) (group, state string, err error) {
	end := time.Now().Add(w.Timing.Known)
	for {
		w.look(ctx)
		group, state, err = w.ask(ctx)
		if err == nil && group != "" && (waits(state) || !w.late(state) || time.Now().After(end)) {
			return group, state, nil
		}
		if err == nil && group == "" {
			err = advice.Try(fmt.Errorf("launch hook: no Auto Scaling group has the instance %s", w.InstanceID),
				"leave launch-hook empty in an image that is started without a group")
		}
		if denied(err) || err != nil && time.Now().After(end) {
			return "", "", err
		}
		if sleepErr := w.pause(ctx); sleepErr != nil {
			return "", "", cmp.Or(err, sleepErr)
		}
	}
}

func (h Hook) ask(ctx context.Context) (group, state string, err error) {
	ctx, cancel := context.WithTimeout(ctx, h.Timing.Call)
	defer cancel()
	out, err := h.API.DescribeAutoScalingInstances(ctx, &autoscaling.DescribeAutoScalingInstancesInput{InstanceIds: []string{h.InstanceID}})
	if err != nil {
		return "", "", h.failed("DescribeAutoScalingInstances", err)
	}
	for _, i := range out.AutoScalingInstances {
		if aws.ToString(i.InstanceId) == h.InstanceID {
			return aws.ToString(i.AutoScalingGroupName), aws.ToString(i.LifecycleState), nil
		}
	}
	return "", "", nil
}

// machineError is a failure that another machine may not have.
type machineError struct{ says string }

func (e machineError) Error() string {
	return fmt.Sprintf("%d boots in a row failed for what is this machine's own; the last: %s", mostFailures, e.says)
}

// untilServes waits for the release and the application, and in a warm pool for what is prepared
// there. Meanwhile the group is told that it goes on, also while the programs run.
func (w *watch) untilServes(ctx context.Context, group string) error {
	h := w.Hook
	beat := time.Now().Add(h.Timing.Beat)
	var last time.Time
	failures, said, why := 0, "", ""
	var asked round
	defer func() { asked.end() }()
	for {
		b := w.look(ctx)
		switch serves := b.Ready && !warmed(w.target); {
		case warmed(w.target) && b.Warmed:
			return nil
		case serves:
			asked.begin(ctx, h)
			b.Says = why
		default: // the gate may have been closed meanwhile
			asked.end()
		}
		if !b.Ended.Equal(last) {
			last = b.Ended
			failures++
			if !b.Machine || b.Ready {
				failures = 0
			}
		}
		if failures >= mostFailures {
			return machineError{b.Says}
		}
		if b.Says != "" && b.Says != said {
			said = b.Says
			h.Log.Info("the launch waits", "group", group, "for", said)
		}
		if !time.Now().Before(beat) && !asked.stuck() {
			h.heartbeat(ctx, group)
			beat = time.Now().Add(h.Timing.Beat - rand.N(h.Timing.Beat/5+1)) // those of a fleet are spread
		}
		answered, err := asked.wait(ctx, h)
		if answered && err == nil {
			return nil
		}
		if answered {
			why = err.Error()
			err = h.pause(ctx)
		}
		if err != nil {
			return fmt.Errorf("launch hook: %w while it waited for: %s", err, said)
		}
	}
}

// heartbeat starts the hook's time-out again. One that fails is no reason to end: the next one
// may come through, and before the instance waits for the hook there is nothing to start again.
func (h Hook) heartbeat(ctx context.Context, group string) {
	ctx, cancel := context.WithTimeout(ctx, h.Timing.Call)
	defer cancel()
	_, err := h.API.RecordLifecycleActionHeartbeat(ctx, &autoscaling.RecordLifecycleActionHeartbeatInput{
		AutoScalingGroupName: &group, LifecycleHookName: &h.Name, InstanceId: &h.InstanceID,
	})
	if err != nil && !volume.IsNoLifecycleAction(err) {
		h.Log.Warn("no heartbeat", "error", h.failed("RecordLifecycleActionHeartbeat", err))
	}
}

// complete tells the group, until it says where the instance is. Before the instance waits for the
// hook, and after that, the answer is the same: "No active Lifecycle Action"
// (amazon-ec2-auto-scaling-group-examples #3, #5); what it means, the state says.
func (w *watch) complete(ctx context.Context, group, result string) error {
	h := w.Hook
	end := time.Now().Add(h.Timing.Known)
	for w.look(ctx); warmed(w.target) == warmed(w.done); w.look(ctx) {
		err := h.tell(ctx, group, result)
		if err == nil {
			h.Log.Info("the launch is completed", "group", group, "result", result)
			return nil
		}
		if denied(err) {
			return err
		}
		if volume.IsNoLifecycleAction(err) {
			_, state, askErr := h.ask(ctx)
			switch {
			case askErr != nil:
				err = askErr
			case !waits(state) && (!w.late(state) || time.Now().After(end)): // "" as well: it has left the group
				h.Log.Info("the launch is over", "group", group, "state", state)
				return nil
			case strings.HasSuffix(state, ":Wait") && time.Now().After(end):
				return advice.Try(fmt.Errorf("launch hook: %s in %s is %s, and not for the hook %q: %w", h.InstanceID, group, state, h.Name, err),
					"give launch-hook the name of the group's own hook")
			}
		}
		h.Log.Info("the launch is not completed yet", "group", group, "error", err)
		if sleepErr := h.pause(ctx); sleepErr != nil {
			return err
		}
	}
	return nil // it is on another way by now, whose launch comes next
}

func (h Hook) tell(ctx context.Context, group, result string) error {
	ctx, cancel := context.WithTimeout(ctx, h.Timing.Call)
	defer cancel()
	_, err := h.API.CompleteLifecycleAction(ctx, &autoscaling.CompleteLifecycleActionInput{
		AutoScalingGroupName: &group, LifecycleHookName: &h.Name, InstanceId: &h.InstanceID, LifecycleActionResult: &result,
	})
	if err != nil {
		return h.failed("CompleteLifecycleAction", err)
	}
	return nil
}

func (h Hook) pause(ctx context.Context) error {
	return smithytime.SleepWithContext(ctx, h.Timing.step())
}

func (t Timing) step() time.Duration { return t.Poll + rand.N(t.Poll/2+1) }

// failed says what was asked, and what to do where a right is missing.
func (h Hook) failed(call string, err error) error {
	if volume.IsDenied(err) {
		return deniedError{advice.Errorf("launch hook %s: %s: %w (packaging/iam/launch-hook.json has it)",
			h.Name, call, volume.Denied(err, "autoscaling:"+call))}
	}
	return fmt.Errorf("launch hook %s: %s: %w", h.Name, call, err)
}

// deniedError: another try changes nothing.
type deniedError struct{ error }

func denied(err error) bool {
	_, is := errors.AsType[deniedError](err)
	return is
}
