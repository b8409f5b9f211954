package launch

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/aws/smithy-go"
)

// pool is a group with a warm pool, and the machine of one instance, as a script makes them.
type pool struct {
	mu      sync.Mutex // the script has it but while it waits
	hook    string     // that waits
	state   string     // in listings
	listed  string     // what listings say meanwhile; "": state
	target  string     // in the metadata; "-": it does not answer
	boot    Boot
	serving error
	runs    bool // its programs run, until they are told to end
	did     []string
}

// ready is a boot that is over now.
func ready() Boot { return Boot{Ready: true, Since: time.Now()} }

func (p *pool) say(what string) { p.did = append(p.did, what) }

func (p *pool) DescribeAutoScalingInstances(_ context.Context, in *autoscaling.DescribeAutoScalingInstancesInput, _ ...func(*autoscaling.Options)) (*autoscaling.DescribeAutoScalingInstancesOutput, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	state := p.state
	if p.listed != "" {
		state = p.listed
	}
	return &autoscaling.DescribeAutoScalingInstancesOutput{AutoScalingInstances: []types.AutoScalingInstanceDetails{{
		InstanceId: &in.InstanceIds[0], AutoScalingGroupName: aws.String("web"), LifecycleState: &state}}}, nil
}

func (p *pool) CompleteLifecycleAction(_ context.Context, in *autoscaling.CompleteLifecycleActionInput, _ ...func(*autoscaling.Options)) (*autoscaling.CompleteLifecycleActionOutput, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !strings.HasSuffix(p.state, "Pending:Wait") || p.hook != *in.LifecycleHookName {
		return nil, &smithy.GenericAPIError{Code: "ValidationError", Message: "No active Lifecycle Action found with instance ID i-1"}
	}
	p.say("complete in " + p.state)
	p.state = strings.TrimSuffix(p.state, "Wait") + "Proceed"
	return &autoscaling.CompleteLifecycleActionOutput{}, nil
}

func (p *pool) RecordLifecycleActionHeartbeat(context.Context, *autoscaling.RecordLifecycleActionHeartbeatInput, ...func(*autoscaling.Options)) (*autoscaling.RecordLifecycleActionHeartbeatOutput, error) {
	return &autoscaling.RecordLifecycleActionHeartbeatOutput{}, nil
}

// watched runs a hook over a pool while a script changes it, and says what was done.
func watched(t *testing.T, name string, p *pool, script func(p *pool, wait func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		p.hook = "ebs-release"
		h := Hook{API: p, Name: name, InstanceID: "i-1", Log: slog.New(slog.DiscardHandler), Timing: DefaultTiming(),
			Boot: func() (Boot, error) {
				p.mu.Lock()
				defer p.mu.Unlock()
				return p.boot, nil
			},
			Serves: func(ctx context.Context) error {
				p.mu.Lock()
				defer p.mu.Unlock()
				if p.runs {
					p.mu.Unlock()
					<-ctx.Done()
					p.mu.Lock()
					p.say("its programs end")
				}
				return p.serving
			},
			Target: func(context.Context) (string, error) {
				p.mu.Lock()
				defer p.mu.Unlock()
				if p.target == "-" {
					return "", errors.New("it does not answer")
				}
				return p.target, nil
			},
			Close: func(context.Context) error {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.say("close in " + p.target)
				p.boot = Boot{}
				return nil
			},
		}
		p.mu.Lock()
		go func() { ended <- h.Run(ctx) }()
		script(p, func() {
			p.mu.Unlock()
			time.Sleep(10 * time.Second)
			synctest.Wait()
			p.mu.Lock()
		})
		p.mu.Unlock()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
}

func (p *pool) want(t *testing.T, did ...string) {
	t.Helper()
	if got, want := strings.Join(p.did, "; "), strings.Join(did, "; "); got != want {
		t.Errorf("it did %q, want %q", got, want)
	}
}

func TestBothHooksOfAWarmPool(t *testing.T) {
	p := &pool{state: "Warmed:Pending", target: "Warmed:Running"}
	watched(t, "ebs-release", p, func(p *pool, wait func()) {
		wait()
		p.state = "Warmed:Pending:Wait"
		wait()
		p.want(t) // it is not prepared yet
		p.boot.Warmed = true
		wait()
		p.want(t, "complete in Warmed:Pending:Wait")
		p.state = "Warmed:Running"
		wait()
		p.state, p.listed, p.target = "Pending:Wait", "Warmed:Running", "InService" // the listing is late
		wait()
		p.listed, p.boot = "", Boot{}
		wait()
		p.want(t, "complete in Warmed:Pending:Wait") // it does not serve yet
		p.boot, p.serving = ready(), errors.New("no socket")
		wait()
		p.serving = nil
		wait()
		p.want(t, "complete in Warmed:Pending:Wait", "complete in Pending:Wait")
	})
}

// On the way back a hook of the termination waits, and not ours.
func TestTheWayBackIntoTheWarmPoolClosesTheGate(t *testing.T) {
	for name, hook := range map[string]string{"with a launch hook": "ebs-release", "without one": ""} {
		t.Run(name, func(t *testing.T) {
			p := &pool{state: "InService", target: "InService"}
			watched(t, hook, p, func(p *pool, wait func()) {
				p.boot = ready()
				wait()
				p.want(t)
				was := p.boot
				p.target = "-"
				wait()
				p.state, p.target, p.hook = "Warmed:Pending:Wait", "Warmed:Running", "drain"
				wait()
				p.want(t, "close in Warmed:Running")
				p.boot = was // that did not help: again, but not at once
				wait()
				p.want(t, "close in Warmed:Running")
				for range 7 {
					wait()
				}
				p.want(t, "close in Warmed:Running", "close in Warmed:Running")
				p.boot = was // nor did that: it does not come back into service by this gate
				p.state, p.target, p.hook = "Pending:Wait", "InService", "ebs-release"
				wait()
				p.want(t, "close in Warmed:Running", "close in Warmed:Running")
				p.boot = ready()
				wait()
				p.did = p.did[2:]
				if hook != "" {
					p.want(t, "complete in Pending:Wait")
				}
				p.did, p.state, p.target = nil, "Warmed:Running", "Warmed:Running" // soon again
				wait()
				p.want(t, "close in Warmed:Running")
			})
		})
	}
}

// The launch into the pool is under way when the group takes the instance into service.
func TestALaunchIntoThePoolThatBecomesOneIntoService(t *testing.T) {
	p := &pool{state: "Warmed:Pending", target: "Warmed:Stopped", boot: Boot{Warmed: true}}
	watched(t, "ebs-release", p, func(p *pool, wait func()) {
		wait()
		p.state, p.target, p.boot = "Pending:Wait", "InService", Boot{}
		wait()
		p.want(t)
		p.boot = ready()
		wait()
		p.want(t, "complete in Pending:Wait")
	})
}

func TestNothingIsWatchedOutsideOfAGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err := Hook{API: &pool{}, InstanceID: "i-1", Log: slog.New(slog.DiscardHandler), Timing: DefaultTiming(),
			Boot: func() (Boot, error) { return Boot{Ready: true}, nil }, Target: func(context.Context) (string, error) { return "", nil },
		}.Run(t.Context())
		if took := time.Since(began); err != nil || took > 4*time.Minute {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

// A metadata service that does not answer (any local user can use up what it takes, 1,024 packets a
// second) is no word that no group has the instance.
func TestAMetadataServiceThatIsSilentEndsNoWatch(t *testing.T) {
	p := &pool{state: "InService", target: "-"}
	watched(t, "", p, func(p *pool, wait func()) {
		p.boot = ready()
		for range 30 { // longer than a new instance may be unknown
			wait()
		}
		p.state, p.target = "Warmed:Running", "Warmed:Running"
		wait()
		p.want(t, "close in Warmed:Running")
	})
}

// Who closed a gate was killed before systemd was told: the next one does it, wherever the instance
// belongs by then.
func TestAGateThatWasToBeClosedIsClosed(t *testing.T) {
	for _, target := range []string{"Warmed:Running", "InService"} {
		p := &pool{state: target, target: target}
		watched(t, "", p, func(p *pool, wait func()) {
			p.boot = Boot{Closing: true, Since: time.Now()}
			wait()
			p.want(t, "close in "+target)
		})
	}
}

// Programs that run for minutes keep no gate open.
func TestAGateIsClosedWhileTheProgramsRun(t *testing.T) {
	p := &pool{state: "Pending:Wait", target: "InService", runs: true}
	watched(t, "ebs-release", p, func(p *pool, wait func()) {
		p.boot = ready()
		wait()
		p.state, p.target = "Warmed:Pending:Wait", "Warmed:Running"
		wait()
		if got := strings.Join(p.did, ", "); got != "close in Warmed:Running, its programs end" {
			t.Errorf("within 10 s: %s", got)
		}
		p.boot = Boot{Warmed: true}
		wait()
		if got := p.did[len(p.did)-1]; got != "complete in Warmed:Pending:Wait" {
			t.Errorf("in the pool: %s", got)
		}
	})
}
