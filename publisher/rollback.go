package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/exit"
	"ebs-release/internal/gc"
	"ebs-release/internal/generation"
	"ebs-release/internal/manifest"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/release"
	"ebs-release/internal/snapshot"
	"ebs-release/internal/words"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/spf13/cobra"
)

func (p *program) rollbackCommand() *cobra.Command {
	j := job{verb: verbRollback}
	var to string
	var snapshot snapshotFlags
	cmd := &cobra.Command{
		Use:   "rollback",
		Short: "Make an older release current again, as a new generation",
		Long: `Make an older release current again, as a new generation. Members that still
hold its tree fetch nothing: they only activate it. Instances that launch get
it from the snapshot that was made of it, or by packs where there is none.

Without --to it is the latest earlier generation that had another release than
the current one; while a rollout is open it is the stable release, as with
rollout abort. A rollback that succeeds ends with exit code 0; code 6 is for a
publish that rolled back by itself (publish --rollback).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if to != "" && !isGeneration(to) && !manifest.ValidID(to) {
				return exit.With(exit.Usage, fmt.Errorf("--to is %q, want a generation or a release id, see `ebs-release history`", to))
			}
			if err := snapshot.into(&j); err != nil {
				return err
			}
			back := rollingBack(to)
			return p.runJob(cmd.Context(), j, func(ctx context.Context, parts *parts) (publish.Outcome, error) {
				if to == "" && parts.endsRollout(ctx, j) {
					return aborting(&j)(ctx, parts)
				}
				return back(ctx, parts)
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "`GENERATION|RELEASE` to go back to")
	_ = cmd.RegisterFlagCompletionFunc("to", p.completeGenerations) // fails only for a flag that is not there
	cmd.Flags().StringVarP(&j.message, "message", "m", "", "why, for the pointer and the history (at most 4 KiB)")
	ifGenerationFlag(cmd.Flags(), &j)
	aboveFlag(cmd.Flags(), &j)
	snapshot.add(cmd.Flags())
	return cmd
}

// endsRollout: while a rollout is open, back is its stable release. That needs no release volume
// and waits for nobody.
func (p *parts) endsRollout(ctx context.Context, j job) bool {
	current, err := p.store.Read(ctx)
	return err == nil && current.Rollout != nil && (j.ifGeneration == nil || *j.ifGeneration == current.Generation)
}

func isGeneration(text string) bool {
	_, err := generation.Parse(text)
	return err == nil
}

func rollingBack(to string) work {
	return func(ctx context.Context, parts *parts) (publish.Outcome, error) {
		return parts.Rollback(ctx, func(ctx context.Context, current pointer.Pointer) (publish.Target, error) {
			target, err := parts.target(ctx, current, to)
			if err == nil && parts.Settings.Message == "" {
				parts.Settings.Message = fmt.Sprintf("rollback to generation %d", target.Generation)
				if target.Generation == 0 {
					parts.Settings.Message = "rollback to release " + target.Release
				}
			}
			return target, err
		})
	}
}

// target finds the release to go back to, on the release volume and in the history, and a snapshot
// of it that is still there.
func (p *parts) target(ctx context.Context, current pointer.Pointer, to string) (publish.Target, error) {
	if current.Generation == 0 {
		return publish.Target{}, advice.Try(errors.New("nothing has been published yet, so there is nothing to go back to"),
			"ebs-release publish SOURCE")
	}
	entries, err := p.store.History(ctx)
	if err != nil {
		return publish.Target{}, err
	}
	commits := slices.DeleteFunc(entries, func(e pointer.Entry) bool { return !e.Committed || e.Verb == verbConverge })
	slices.SortStableFunc(commits, func(a, b pointer.Entry) int { return cmp.Compare(b.Generation, a.Generation) }) // the latest first
	chosen, err := choose(commits, current, to)
	if err != nil {
		return publish.Target{}, err
	}
	target := publish.Target{Generation: chosen.Generation, Release: chosen.Release, Digest: chosen.Digest}
	have, err := p.volume.ManifestDigest(target.Release)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return publish.Target{}, advice.Try(fmt.Errorf("release %s is not on the release volume any more (--keep)", target.Release),
			"publish its source again%s", p.otherWays(commits, current))
	case err != nil:
		return publish.Target{}, err
	case target.Digest != "" && have != target.Digest:
		return publish.Target{}, advice.Try(fmt.Errorf("release %s on the release volume has digest %s, it was published with %s",
			target.Release, have, target.Digest), "publish its source again")
	}
	target.Digest = have
	target.SnapshotID, err = p.snapshotOf(ctx, target, commits)
	return target, err
}

// snapshotOf returns a completed snapshot of the release; "": there is none. The history says which
// one it was, and EC2 that it is this volume's: the history is not signed. It must have the keys of
// now: who boots from it believes them alone.
func (p *parts) snapshotOf(ctx context.Context, target publish.Target, commits []pointer.Entry) (string, error) {
	since, err := keysSince(p.volume, p.signs.Since)
	if err != nil {
		return "", err
	}
	there, err := p.maker.List(ctx)
	if err != nil {
		return "", err
	}
	for _, e := range commits {
		if e.Release != target.Release || e.Digest != target.Digest {
			continue
		}
		for _, id := range []string{e.Snapshots[p.Settings.Region], e.Asked[p.Settings.Region]} {
			if slices.ContainsFunc(there, func(o snapshot.Old) bool {
				return o.ID == id && o.Release == target.Release && o.State == types.SnapshotStateCompleted && !o.Started.Before(since)
			}) {
				return id, nil
			}
		}
	}
	return "", nil
}

// otherWays names the generations whose releases are still on the release volume.
func (p *parts) otherWays(commits []pointer.Entry, current pointer.Pointer) string {
	there, _ := with(p.volume, (*release.Volume).Releases) // if they cannot be read, that is not what went wrong
	var ways []string
	for _, e := range commits {
		if e.Release != current.Release && slices.Contains(there, e.Release) {
			ways = append(ways, strconv.FormatInt(e.Generation, 10))
		}
	}
	if len(ways) == 0 {
		return ""
	}
	return ", or go back --to one of these generations: " + strings.Join(ways, ", ")
}

// choose takes the entry that to names; commits are those of the history, the latest first.
func choose(commits []pointer.Entry, current pointer.Pointer, to string) (pointer.Entry, error) {
	switch {
	case to == "":
		if back := gc.Back(publish.Committed(commits), current.Generation, current.Release); len(back) > 0 {
			return commits[slices.IndexFunc(commits, func(e pointer.Entry) bool { return e.Generation == back[0].Number })], nil
		}
		return pointer.Entry{}, advice.Try(fmt.Errorf("the history has no generation before %d with another release",
			current.Generation), "publish the source of what is wanted")
	case isGeneration(to):
		n, _ := generation.Parse(to)
		if n == current.Generation {
			return pointer.Entry{}, advice.Try(fmt.Errorf("generation %d is the current one", n), "ebs-release history, which has the others")
		}
		var known []string
		for _, e := range commits {
			if e.Generation == n {
				return e, nil
			}
			known = append(known, strconv.FormatInt(e.Generation, 10))
		}
		return pointer.Entry{}, fmt.Errorf("there is no generation %d in the history, which has %s", n, strings.Join(known, ", "))
	case to == current.Release:
		return pointer.Entry{}, advice.Try(fmt.Errorf("release %s is the current one (generation %d)", to, current.Generation),
			"ebs-release history, which has the others")
	}
	for _, e := range commits {
		if e.Release == to {
			return e, nil
		}
	}
	return pointer.Entry{Release: to}, nil // taken in, perhaps, and never committed
}

// nothingToUndo says whether the generation before the one that did not converge had the same
// release: there, a rollback would go back behind what all members ran before.
func nothingToUndo(entries []pointer.Entry, generation int64, release string) bool {
	var before pointer.Entry
	for _, e := range entries {
		if e.Committed && e.Verb != verbConverge && e.Generation < generation && e.Generation > before.Generation {
			before = e
		}
	}
	return before.Generation > 0 && before.Release == release
}

func (p *program) historyOf(ctx context.Context) ([]pointer.Entry, error) {
	values, err := p.settings("pointer-store")
	if err != nil {
		return nil, err
	}
	store, err := openStore(ctx, values.Get("pointer-store"), later(ctx))
	if err != nil {
		return nil, err
	}
	return store.History(ctx)
}

// publishOrRollBack publishes, and goes back when members are left behind.
func (p *program) publishOrRollBack(ctx context.Context, j job) error {
	outcome, err := p.carryOut(ctx, j, publishing(j))
	if outcome == nil {
		return err
	}
	if exit.Code(err) != exit.NotConverged {
		return p.report(*outcome, err)
	}
	if entries, historyErr := p.historyOf(ctx); historyErr == nil && nothingToUndo(entries, outcome.Generation, outcome.Release) {
		return p.report(*outcome,
			advice.Errorf("%w; not rolled back: release %s was current before this publish, too, so there is nothing to undo", err, outcome.Release))
	}
	fmt.Fprintf(p.stderr, "ebs-release: %s; rolling back\n", words.OneLine(err))
	failed := outcome.Generation
	back := job{
		verb: verbRollback, message: fmt.Sprintf("generation %d did not converge", failed), ifGeneration: &failed, snapshot: j.snapshot,
	}
	if back.snapshot == publish.SnapshotWaited { // for the release that it was to be of
		back.snapshot = publish.SnapshotLeft
	}
	after, backErr := p.carryOut(ctx, back, rollingBack(""))
	if backErr != nil {
		words := "%w; and the rollback failed: %w"
		if after != nil && after.Committed {
			words = "%w; rolled back, but: %w"
		}
		err = exit.With(exit.NotConverged, advice.Errorf(words, err, backErr))
		if exit.Code(backErr) == exit.Interrupted {
			err = exit.With(exit.Interrupted, err)
		}
		if after == nil || !after.Committed {
			return p.report(*outcome, err)
		}
		return p.report(*after, err)
	}
	err = exit.With(exit.RolledBack, fmt.Errorf("rolled back from generation %d, as generation %d: %w", failed, after.Generation, err))
	after.Result, after.Error = publish.ResultRolledBack, words.OneLine(err)
	return p.report(*after, err)
}
