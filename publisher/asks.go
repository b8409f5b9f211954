package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"ebs-release/internal/config"
	"ebs-release/internal/hook"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
)

// rolloutFolder holds the operator's programs that hear what happens in a rollout.
const rolloutFolder = "/etc/ebs-release/rollout.d"

// termsOf are what a rollout that begins here goes on by.
func termsOf(values config.Values, j job) pointer.Terms {
	return pointer.Terms{
		AtOnce: values.Int("at-once"), Bake: values.Duration("bake"), Healthy: values.Get("healthy"),
		HealthTimeout: values.Duration("health-timeout"), Gate: values.Get("gate"), Watch: values.Get("watch"), NoRollback: j.noRollback,
	}
}

// asks is publish.Asks: gate and watch are command lines for sh -c, and the programs in rollout.d
// hear each event. All get the same environment, and the event as JSON on stdin.
type asks struct {
	timeout   time.Duration // for each
	directory string
}

// Ask is publish.Asks's.
func (a asks) Ask(ctx context.Context, command string, about publish.RolloutEvent) error {
	input, err := json.Marshal(about)
	if err != nil {
		return err
	}
	return hook.Command{Name: about.Event, Line: command, Timeout: a.timeout, Env: rolloutEnv(about), Input: append(input, '\n')}.Run(ctx)
}

// Tell is publish.Asks's.
func (a asks) Tell(ctx context.Context, about publish.RolloutEvent) error {
	input, err := json.Marshal(about)
	if err != nil {
		return err
	}
	dir := hook.Dir{Path: a.directory, Timeout: a.timeout, Env: rolloutEnv(about), Input: append(input, '\n')}
	if err := dir.Run(ctx); err != nil {
		return fmt.Errorf("%s: %w", a.directory, err)
	}
	return nil
}

func rolloutEnv(e publish.RolloutEvent) []string {
	return []string{
		"EBS_RELEASE_EVENT=" + e.Event, fmt.Sprintf("EBS_RELEASE_GENERATION=%d", e.Generation),
		"EBS_RELEASE_ID=" + e.Release, "EBS_RELEASE_DIGEST=" + e.Digest,
		fmt.Sprintf("EBS_RELEASE_STABLE_GENERATION=%d", e.Stable.Generation), "EBS_RELEASE_STABLE_ID=" + e.Stable.Release,
		fmt.Sprintf("EBS_RELEASE_STEP=%d", e.Step), fmt.Sprintf("EBS_RELEASE_STEPS=%d", e.Steps), "EBS_RELEASE_SHARE=" + e.Share,
		fmt.Sprintf("EBS_RELEASE_MEMBERS=%d", e.Members), fmt.Sprintf("EBS_RELEASE_MEMBERS_GIVEN=%d", e.Given),
		fmt.Sprintf("EBS_RELEASE_MEMBERS_HEALTHY=%d", e.Healthy),
		"EBS_RELEASE_BY=" + e.By, "EBS_RELEASE_MESSAGE=" + e.Message, "EBS_RELEASE_REASON=" + e.Reason,
	}
}

// noteSteps writes into the history what a rollout has come through, and where it stopped. Its end
// is the line of the run itself.
func (p *program) noteSteps(ctx context.Context, parts *parts, next func(publish.Event)) func(publish.Event) {
	return func(e publish.Event) {
		next(e)
		if e.Rollout == nil {
			return
		}
		ro := *e.Rollout
		switch ro.Event {
		case publish.RolloutBegan, publish.RolloutPassed, publish.RolloutFailed, publish.RolloutPaused, publish.RolloutResumed,
			publish.RolloutBack:
		default:
			return
		}
		p.record(ctx, parts.store, pointer.Entry{
			Verb: verbStep, Message: ro.Sentence(), Result: ro.Event, Generation: ro.Stable.Generation, Release: ro.Release,
			OnIt: ro.Healthy, Total: ro.Members, Error: ro.Reason,
		})
	}
}
