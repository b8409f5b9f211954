package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/cli"
	"ebs-release/internal/exit"
	"ebs-release/internal/generation"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Verbs that a job and a line of the history can have.
const (
	verbPublish  = "publish"
	verbRollback = "rollback"
	verbConverge = "converge"
	verbSnapshot = "snapshot"
	verbDoctor   = "doctor"

	verbResume  = "rollout resume"
	verbCarryOn = "rollout carry-on"
	verbFinish  = "rollout finish"
	verbAbort   = "rollout abort"

	// In the history only.
	verbGC          = "gc"
	verbPause       = "rollout pause"
	verbStep        = "rollout step"
	verbHold        = "hold"
	verbHoldRelease = "hold --release"
	verbThaw        = "thaw"
	verbLockRelease = "lock release"
	verbKeyInit     = "key init"
	verbKeySign     = "key sign"
	verbKeyRotate   = "key rotate"
)

func (p *program) publishCommand() *cobra.Command {
	j := job{verb: verbPublish}
	var dryRun, rollback bool
	var snapshot snapshotFlags
	cmd := &cobra.Command{
		Use:   "publish SOURCE",
		Short: "Make a directory the current release of every member",
		Long: `Make a directory (or any rsync source) the current release of every member, and
of every instance that launches from now on.

P0 check      take the lock, and try everything that could fail later
P1 ingest     copy SOURCE to the release volume, as a new release
P2 pack       put what changed into the pointer store, and read it back
P3 stage      members fetch the release, which is not yet active
P4 commit     move the pointer: instances that boot from here on get the new
              release, by the newest snapshot and packs
P5 converge   activate on every member; list them again until none is behind
P6 snapshot   freeze the release volume, ask EBS for a snapshot, thaw it
P7 report     print who is on it

Nobody waits for EBS: the next publish, converge, gc or ` + "`ebs-release snapshot`" + `
names the snapshot in the pointer, and instances that launch start from it.
Until then they start from the one before, and catch up by packs. The first
publish of all, and the first after keys were made or changed, takes its
snapshot in P2, and waits for it before the commit.

With --steps the release is given to a share of the members first. In each step
--at-once members at a time get it, and have to be healthy; they stay so for
--bake; then --gate is asked. --watch is asked throughout. When a step fails,
everybody goes back to the release before, and the exit code is 6. See
` + "`ebs-release help rollout`" + `.

The release that is current may be published again: it is a new generation of
the same tree. A file of SOURCE that was read before, and whose inode, size,
mtime and ctime are the same, is not read again (on ext4, XFS and btrfs, until
the next boot); --full reads it.`,
		Example: `  sudo ebs-release publish ./build --message "build 812"
  sudo ebs-release publish --steps 1,10%,50% --bake 2m --gate ./smoke ./build
  sudo ebs-release publish --dry-run ./build
  sudo ebs-release publish ci@build.internal:/srv/builds/812/`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("publish wants one SOURCE, the directory to release, and got %d", len(args))
			}
			return nil
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			j.source = args[0]
			if err := snapshot.into(&j); err != nil {
				return err
			}
			switch {
			case dryRun && rollback:
				return exit.With(exit.Usage, errors.New("--dry-run and --rollback: want one of them"))
			case j.all && !dryRun:
				return exit.With(exit.Usage, errors.New("--all is for --dry-run"))
			case dryRun && p.output == outputNDJSON:
				return exit.With(exit.Usage, errors.New("--dry-run has no events: want --output text or json"))
			case dryRun:
				return p.preview(cmd.Context(), j)
			case rollback:
				return p.publishOrRollBack(cmd.Context(), j)
			}
			return p.runJob(cmd.Context(), j, publishing(j))
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&j.message, "message", "m", "", "what this release is, for the pointer and the history (at most 4 KiB)")
	flags.BoolVar(&dryRun, "dry-run", false, "check everything, say which files would change, and change nothing")
	flags.BoolVar(&j.all, "all", false, "with --dry-run: list every path, not the first 20")
	flags.BoolVar(&j.full, "full", false, "read every file of SOURCE, also those whose inode says that they did not change")
	flags.BoolVar(&rollback, "rollback", false, "when members are left behind: roll back to the generation before, and end with exit code 6")
	flags.BoolVar(&j.noRollback, "no-rollback", false, "with --steps: where the rollout would go back it pauses, with exit code 8")
	flags.BoolVar(&j.force, "force", false, "go on although no member at all can be reached or can take the release, "+
		"for the instances that launch from now on; the others are tried in P5")
	ifGenerationFlag(flags, &j)
	aboveFlag(flags, &j)
	snapshot.add(flags)
	return cmd
}

// ifGenerationFlag adds --if-generation.
func ifGenerationFlag(flags *pflag.FlagSet, j *job) {
	const usage = "go on only if the pointer is at generation `N` (0: nothing is published); exit 4 when it is elsewhere"
	flags.Func("if-generation", usage, func(text string) error {
		n, err := int64(0), error(nil) // 0: nothing is published
		if text != "0" {
			n, err = generation.Parse(text)
		}
		j.ifGeneration = &n
		return err
	})
}

// aboveFlag adds --above.
func aboveFlag(flags *pflag.FlagSet, j *job) {
	const usage = "generation `N` was reached: for a pointer and a release volume that are old copies, far below what members report"
	flags.Func("above", usage, func(text string) (err error) {
		j.above, err = generation.Parse(text)
		return err
	})
}

func (p *program) convergeCommand() *cobra.Command {
	j := job{verb: verbConverge}
	cmd := &cobra.Command{
		Use:   "converge",
		Short: "Bring every member to the current generation",
		Long: `Bring every member to the current generation, and check that it is there, as P5
of a publish does. Run it after a publish that ended with exit code 5 or was
killed after its commit, and after running instances were put into the group.

Then it does P6: it names a snapshot that EBS has completed since, and asks for
one of the current generation where nobody has.`,
		Args: cobra.NoArgs,
	}
	return p.runsJob(cmd, &j, converging)
}

func converging(ctx context.Context, parts *parts) (publish.Outcome, error) {
	return parts.Converge(ctx)
}

// work is what a job does with the parts.
type work func(context.Context, *parts) (publish.Outcome, error)

func publishing(j job) work {
	return func(ctx context.Context, parts *parts) (publish.Outcome, error) { return parts.Publish(ctx, j.source) }
}

// runsJob makes cmd, which takes no arguments, carry out a job that has P6.
func (p *program) runsJob(cmd *cobra.Command, j *job, do work) *cobra.Command {
	var snapshot snapshotFlags
	snapshot.add(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := snapshot.into(j); err != nil {
			return err
		}
		return p.runJob(cmd.Context(), *j, do)
	}
	return cmd
}

// runJob carries a job out, and reports.
func (p *program) runJob(ctx context.Context, j job, do work) error {
	outcome, err := p.carryOut(ctx, j, do)
	if outcome == nil {
		return err
	}
	return p.report(*outcome, err)
}

// report prints how a job ended.
func (p *program) report(outcome publish.Outcome, err error) error {
	if p.output == cli.JSON {
		if printErr := p.printJSON(outcome); printErr != nil {
			return printErr
		}
		return err
	}
	if p.output == outputNDJSON { // the last event was the outcome, but for a rollback that nobody asked for
		if outcome.Result == publish.ResultRolledBack {
			p.listen(func(publish.Event) {})(publish.Event{Phase: "P7", Kind: publish.KindOutcome, Outcome: &outcome})
		}
		return err
	}
	if outcome.Committed {
		fmt.Fprintln(p.stdout, outcome.Sentence())
		for _, line := range outcome.Details() {
			fmt.Fprintln(p.stdout, "  "+line)
		}
	}
	return err
}

// carryOut does a job, and writes into the history how it ended. Without an outcome it did not
// begin.
func (p *program) carryOut(ctx context.Context, j job, do work) (*publish.Outcome, error) {
	values, err := p.settings("pointer-store", "groups")
	if err != nil {
		return nil, err
	}
	parts, err := newParts(ctx, values, p.configFile, j)
	if err != nil {
		return nil, before(ctx, err)
	}
	defer func() { _ = parts.volume.close() }()
	talk := newTalker(p.stderr, p.getenv("TERM"))
	parts.Talk, parts.Insist = p.listen(p.noteSteps(ctx, parts, talk.event)), p.insist()
	outcome, err := do(ctx, parts)
	talk.close()
	e := pointer.Entry{
		Verb: j.verb, Message: parts.Settings.Message, Result: outcome.Result, Committed: outcome.Committed, Generation: outcome.Generation,
		OnIt: outcome.OnIt, Total: outcome.Total, Took: outcome.Milliseconds, Error: outcome.Error,
	}
	if e.Committed { // else it is that of the generation before
		e.Release = outcome.Release
	}
	if exit.Code(err) != exit.Usage { // a mistyped command is no history
		p.record(ctx, parts.store, e)
	}
	return &outcome, err
}

// before marks an error from before the publish began.
func before(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil || exit.Code(err) != exit.Failed {
		return err
	}
	return exit.With(exit.Unchanged, fmt.Errorf("nothing was changed: %w", err))
}

// halfway marks an error from what goes on, when it is run again, after what it did.
func halfway(ctx context.Context, err error, did []string) error {
	if len(did) == 0 {
		return before(ctx, err)
	}
	return advice.Also(advice.Errorf("%w; done so far: %s", err, strings.Join(did, ", ")), "then again, and it goes on")
}
