package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/cli"
	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/status"
	"ebs-release/internal/words"

	"github.com/spf13/cobra"
)

// isRolloutVerb: it works with the store and the key alone, wherever they are.
func isRolloutVerb(verb string) bool {
	return slices.Contains([]string{verbResume, verbCarryOn, verbFinish, verbAbort, verbPause, verbHold}, verb)
}

func (p *program) rolloutCommand() *cobra.Command {
	group := cli.Group("rollout", "Look at an open rollout; pause it, go on, go back, finish it",
		p.rolloutStatus(), p.rolloutPause(), p.rolloutResume(), p.rolloutAbort(), p.rolloutFinish(), p.rolloutCarryOn())
	group.Long = `A rollout gives a release to a share of the members first (publish --steps).
All of it is in the pointer: these verbs work on any machine that has the
pointer store and the signing key, whatever became of the publish.

Per step:
  raise    more members are given the release, --at-once at a time; those that
           are away already count
  healthy  each is on it within --health-timeout, and healthy (--healthy)
  bake     they stay so for --bake
  gate     the command --gate ends with 0
In the end all have it, and the release is current.

A member that fails (more than --max-failures, if that is set), no progress for
--health-timeout, a gate or a watch that is red: everybody goes back to the
release before, as a new generation, and the exit code is 6. With --no-rollback
it pauses instead: exit code 8.

Gate and watch are run by sh -c, as root, with EBS_RELEASE_* in their
environment and the event as JSON on their stdin. The programs in
/etc/ebs-release/rollout.d hear each event in the same way. Each has
--hook-timeout.

While it is open a publish is refused (exit 4); ` + "`ebs-release rollback`" + ` ends it.
ebs-release-rollout.timer goes on with one whose driver has died.`
	return group
}

// rolloutReport is what `rollout status --output json` prints.
type rolloutReport struct {
	Schema  int              `json:"schema"`
	Open    bool             `json:"open"`
	Rollout *pointer.Rollout `json:"rollout,omitempty"`
	Stable  *pointer.Held    `json:"stable,omitempty"`
	Says    string           `json:"says"`
	Hold    *pointer.Hold    `json:"hold,omitempty"`
}

func (p *program) rolloutStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Say at which step a rollout is, who drives it, on what terms",
		Long: `Say at which step a rollout is, who drives it, and on what terms. It changes
nothing. When it does not go on, and this says

"and paused":
  it waits for you: rollout resume, rollout finish or rollout abort
"who has not been heard of since":
  its driver has died: ebs-release-rollout.timer takes it up, or rollout resume
neither of these two:
  it waits for a member ("ebs-release status" shows which), for the end of
  --bake, or for its gate

When in doubt: rollout abort, and everybody is on the stable release again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := p.store(cmd.Context())
			if err != nil {
				return err
			}
			current, err := store.Read(cmd.Context())
			if err != nil {
				return err
			}
			report := rolloutReport{
				Schema: status.Schema, Open: current.Rollout != nil, Rollout: current.Rollout, Says: "no rollout is open",
			}
			if current.Hold.At(time.Now()) {
				report.Hold = current.Hold
			}
			if report.Open {
				stable := current.Own()
				report.Stable = &stable
				report.Says = publish.SayRollout(current, time.Now())
			}
			if p.output == cli.JSON {
				return p.printJSON(report)
			}
			if err := printRollout(p.stdout, current, time.Now()); err != nil || report.Hold == nil {
				return err
			}
			_, err = fmt.Fprintln(p.stdout, printable(publish.SayHold(report.Hold, time.Now())))
			return err
		},
	}
}

func printRollout(out io.Writer, current pointer.Pointer, now time.Time) error {
	ro := current.Rollout
	if ro == nil {
		_, err := fmt.Fprintln(out, "no rollout is open")
		return err
	}
	var steps []string
	for i, s := range ro.Steps {
		text := s.String()
		if i == ro.Step {
			text = "[" + text + "]"
		}
		steps = append(steps, text)
	}
	rows := [][2]string{
		{"steps", strings.Join(steps, " ")},
		{"new", fmt.Sprintf("generation %d, release %s", ro.Generation, ro.Release)},
		{"stable", fmt.Sprintf("generation %d, release %s", current.Generation, current.Release)},
		{"began", ro.Began.UTC().Format(time.RFC3339)},
		{"message", printable(ro.Message)},
		{"at once", count(ro.Terms.AtOnce)},
		{"healthy", fmt.Sprintf("%s, within %v", ro.Terms.Healthy, ro.Terms.HealthTimeout)},
		{"bake", duration(ro.Terms.Bake)},
		{"gate", printable(ro.Terms.Gate)},
		{"watch", printable(ro.Terms.Watch)},
		{"lost", printable(strings.Join(slices.Sorted(maps.Values(ro.Lost)), "; "))},
	}
	if ro.Terms.NoRollback {
		rows = append(rows, [2]string{"on failure", "it pauses"})
	}
	fmt.Fprintln(out, printable(publish.SayRollout(current, now)))
	for _, r := range rows {
		if r[1] != "" {
			fmt.Fprintf(out, "  %-10s  %s\n", r[0], r[1])
		}
	}
	switch {
	case !publish.Driven(*ro, now):
		fmt.Fprintln(out, "`ebs-release rollout resume` goes on, `rollout abort` goes back, `rollout finish` gives it to all at once")
	default:
		fmt.Fprintf(out, "its driver writes again until %s; `ebs-release rollout pause` stops it, `rollout abort` goes back\n",
			ro.Until.UTC().Format(time.RFC3339))
	}
	return nil
}

func count(n int) string {
	if n == 0 {
		return ""
	}
	return words.Count(n, "member")
}

func duration(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

func (p *program) rolloutPause() *cobra.Command {
	return &cobra.Command{
		Use:   "pause [WHY]",
		Short: "Stop a rollout at its step",
		Long: `Stop a rollout at its step: the pointer says so, and whoever drives it sees that
and ends with exit code 8. Members stay on their sides, also those that boot.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			why := "by hand"
			if len(args) > 0 && strings.TrimSpace(args[0]) != "" {
				why = args[0]
			}
			return p.changePointer(cmd.Context(), verbPause, why, func(ctx context.Context, store *pointer.Store, who string) (changed, error) {
				is, err := publish.Pause(ctx, store, fmt.Sprintf("%s (%s)", why, who))
				if err != nil {
					return changed{}, err
				}
				p.tellPaused(ctx, is)
				return changed{is, publish.SayRollout(is, time.Now())}, nil
			})
		},
	}
}

// tellPaused runs rollout.d: whoever drives only sees that it is paused.
func (p *program) tellPaused(ctx context.Context, is pointer.Pointer) {
	values, err := p.settings()
	if err == nil {
		about := publish.EventOf(publish.RolloutPaused, is)
		about.Reason = is.Rollout.Paused
		err = asks{values.Duration("hook-timeout"), rolloutFolder}.Tell(ctx, about)
	}
	if err != nil {
		fmt.Fprintf(p.stderr, "warning: %s\n", words.OneLine(err))
	}
}

// changeReport is what `rollout pause` and `hold` print with --output json.
type changeReport struct {
	Schema     int              `json:"schema"`
	Generation int64            `json:"generation"`
	Says       string           `json:"says"`
	Rollout    *pointer.Rollout `json:"rollout,omitempty"`
	Hold       *pointer.Hold    `json:"hold,omitempty"`
}

// changed is a pointer after a change, and what a person is told.
type changed struct {
	pointer.Pointer
	says string
}

// changePointer writes something into the pointer that moves no generation, and into the history
// who did.
func (p *program) changePointer(ctx context.Context, verb, why string,
	do func(ctx context.Context, store *pointer.Store, who string) (changed, error)) error {
	values, err := p.settings("pointer-store")
	if err != nil {
		return err
	}
	store, err := openStore(ctx, values.Get("pointer-store"), later(ctx))
	if err != nil {
		return err
	}
	volume := &releaseVolume{point: values.Get("mount-point")}
	defer func() { _ = volume.close() }()
	if signs := sign(store, volume, values.Get("signing-key")); signs.Err != nil {
		return exit.With(exit.Unchanged, signs.Err)
	}
	who, err := whoAmI()
	if err != nil {
		return err
	}
	is, err := do(ctx, store, who)
	if err != nil {
		return before(ctx, err)
	}
	p.record(ctx, store, pointer.Entry{Verb: verb, Message: why, Result: resultDone, Generation: is.Generation})
	if p.output == cli.JSON {
		return p.printJSON(changeReport{status.Schema, is.Generation, is.says, is.Rollout, is.Hold})
	}
	_, err = fmt.Fprintln(p.stdout, printable(is.says))
	return err
}

func (p *program) rolloutResume() *cobra.Command {
	j := job{verb: verbResume}
	cmd := &cobra.Command{
		Use:   "resume",
		Short: "Drive a rollout on from its step, whoever did until now",
		Long: `Drive an open rollout on from its step: one that is paused, or whose driver has
died. Its step begins anew, with its bake and its gate. While another driver
writes in time it is refused (exit 4): pause first, or --force when that driver
is surely gone. Who resumes is in the history.`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&j.force, "force", false, "also while its driver seems to be at work; that one then stops")
	return p.runsJob(cmd, &j, resuming(&j))
}

func resuming(j *job) work {
	return func(ctx context.Context, parts *parts) (publish.Outcome, error) { return parts.Resume(ctx, j.force) }
}

func (p *program) rolloutAbort() *cobra.Command {
	j := job{verb: verbAbort}
	cmd := &cobra.Command{
		Use:   "abort",
		Short: "Go back: everybody gets the stable release",
		Long: `End an open rollout: the pointer names the stable release for everybody, as a
new generation. That is one write, which no member, no driver and no lock holds
up; then the members of the share flip back, and the others have nothing to do.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.runJob(cmd.Context(), j, aborting(&j)) },
	}
	cmd.Flags().StringVarP(&j.message, "message", "m", "", "why, for the pointer and the history (at most 4 KiB)")
	return cmd
}

func aborting(j *job) work {
	return func(ctx context.Context, parts *parts) (publish.Outcome, error) {
		why := j.message
		if why == "" {
			why = "the rollout was aborted"
		}
		return parts.Abort(ctx, why)
	}
}

func (p *program) rolloutFinish() *cobra.Command {
	j := job{verb: verbFinish}
	cmd := &cobra.Command{
		Use:   "finish",
		Short: "Give the release to all members now",
		Long: `End an open rollout: its release is current for everybody now. No further step,
bake, gate or --at-once is waited for.`,
		Args: cobra.NoArgs,
	}
	return p.runsJob(cmd, &j, func(ctx context.Context, parts *parts) (publish.Outcome, error) { return parts.Finish(ctx) })
}

func (p *program) rolloutCarryOn() *cobra.Command {
	j := job{verb: verbCarryOn}
	cmd := &cobra.Command{
		Use:   "carry-on",
		Short: "Take up a rollout whose driver has died",
		Long: `Take up a rollout whose driver has not written in time (it is noticed after 3
to 5 minutes), as resume does. One that is paused, or driven, is left alone.
ebs-release-rollout.timer runs this. A gate that is not installed here counts as
red: the rollout goes back. When a publish or rollout was killed after it had
moved the pointer (it is noticed after 10 minutes), it does what converge does.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.carryOn(cmd.Context(), j) },
	}
	cmd.Flags().BoolVar(&j.force, "force", false, "at once, however lately its driver wrote")
	return cmd
}

// carryOn ends what somebody else has begun, if there is anything.
func (p *program) carryOn(ctx context.Context, j job) error {
	store, err := p.store(ctx)
	if err != nil {
		return err
	}
	current, err := store.Read(ctx)
	if err != nil {
		return err
	}
	past, err := store.History(ctx)
	if err != nil {
		return err
	}
	says := ""
	switch ro := current.Rollout; {
	case ro == nil && publish.IsLeft(current, past, time.Now(), j.force):
		j.verb = verbConverge
		err := p.runJob(ctx, j, converging)
		if exit.Code(err) == exit.Conflict { // somebody is at it
			return nil
		}
		return err
	case ro == nil:
		says = "no rollout is open, and nothing was left undone"
	case ro.Paused != "", !j.force && publish.Driven(*ro, time.Now()):
		says = publish.SayRollout(current, time.Now())
	default:
		err := p.runJob(ctx, j, resuming(&j))
		if errors.Is(err, publish.ErrNoRollout) {
			return nil
		}
		return err
	}
	if p.output == cli.JSON {
		return p.printJSON(rolloutReport{Schema: status.Schema, Open: current.Rollout != nil, Rollout: current.Rollout, Says: says})
	}
	_, err = fmt.Fprintln(p.stdout, printable(says))
	return err
}
