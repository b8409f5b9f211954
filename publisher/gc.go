package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/cli"
	"ebs-release/internal/exit"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish/sweep"
	"ebs-release/internal/status"
	"ebs-release/internal/words"

	"github.com/spf13/cobra"
)

// gcReport is what `gc --output json` prints.
type gcReport struct {
	Schema    int          `json:"schema"`
	DryRun    bool         `json:"dry_run"`
	Items     []sweep.Item `json:"items"` // that nobody needs
	Kept      []sweep.Item `json:"kept"`
	Named     string       `json:"named,omitempty"`            // the snapshot that the pointer names since then
	Templates []string     `json:"launch_templates,omitempty"` // what was done about them
	Warnings  []string     `json:"warnings,omitempty"`
}

func (p *program) gcCommand() *cobra.Command {
	grace := 24 * time.Hour
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Delete releases, snapshots, packs and volumes that nobody needs",
		Long: `Delete what nobody needs any more, if it is older than --grace:

tree      releases on the release volume. Kept are those of the latest --keep
          committed generations (by the history, not by age), those that are
          current or that a member is on, and those that a mount or a process
          of this machine uses, in any namespace
snapshot  snapshots of the release volume. Kept are one for each of the --keep
          releases, those of the pointer, those that EBS is making, those of
          members that boot, and those that a version of a launch template names
          (of the groups, or of the setting launch-template). The ones of
          publishes that never committed go first; those that failed go at once
pack      packs in the pointer store that the pointer does not list and that are
          at least a day old, whatever --grace says
volume    volumes of members whose instance is gone, attached to nothing, in
          any group
reports   in a store in S3: of members that are gone, and what the others have
          reported anew since; at least a day old, whatever --grace says
record    files with addresses and host keys of members, which a killed
          publisher left in the temporary directory

Before that it makes the pointer name the newest snapshot that EBS has
completed, as ` + "`ebs-release snapshot`" + ` does.

Let --grace be longer than the slowest boot: an instance may be making its
volume from an older snapshot right now. The lock is taken only when there is
something to delete. Exit 4: a publish is running.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if grace < 0 {
				return exit.With(exit.Usage, errors.New("--grace: want a duration of 0 or more"))
			}
			return p.gc(cmd.Context(), grace, dryRun)
		},
	}
	cmd.Flags().DurationVar(&grace, "grace", grace, "leave alone what is younger, by the time that it was made")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be removed, what is kept, and why; remove nothing")
	return cmd
}

func (p *program) gc(ctx context.Context, grace time.Duration, dryRun bool) (err error) {
	values, err := p.settings("pointer-store", "groups")
	if err != nil {
		return err
	}
	parts, err := newParts(ctx, values, p.configFile, job{verb: verbGC})
	if err != nil {
		return before(ctx, err)
	}
	defer func() { _ = parts.volume.close() }()
	if err := parts.signs.Believes(); err != nil {
		return before(ctx, err)
	}
	s := parts.sweeper(grace)
	report := gcReport{Schema: status.Schema, DryRun: dryRun}
	plan, err := s.Plan(ctx)
	if err != nil {
		return before(ctx, err)
	}
	if !dryRun {
		named, found, err := parts.Name(ctx)
		if err != nil {
			return advice.Errorf("name the newest snapshot in the pointer: %w; nothing was removed", err)
		}
		if found {
			report.Named = named.ID
		}
		report.follow(ctx, parts)
	}
	if !dryRun && len(plan.Items) > 0 {
		unlock, lockErr := s.Lock(ctx, parts.Settings.Who+" (gc)")
		if lockErr != nil {
			return before(ctx, lockErr)
		}
		defer func() { err = errors.Join(err, unlock()) }()
		if plan, err = s.Plan(ctx); err != nil { // once more: a publish may just have ended
			return before(ctx, err)
		}
		s.Remove(ctx, plan.Items)
		p.record(ctx, parts.store, entryOfGC(ctx, plan, s.Began))
	}
	report.Items, report.Kept = plan.Items, plan.Kept
	if p.output == cli.JSON {
		err = p.printJSON(report)
	} else {
		err = p.printGC(report)
	}
	return errors.Join(err, failedGC(ctx, plan.Items))
}

// sweeper is what gc works with.
func (p *parts) sweeper(grace time.Duration) sweep.Sweeper {
	s := sweep.Sweeper{
		Store: p.store, Volume: p.volume, Snapshots: p.maker, EC2: p.ec2, Members: p.members.List, Templates: p.templates.keeper.Named,
		Owner: p.checks.Owner, Keep: p.Settings.Keep, Grace: grace, Since: p.signs.Since, Began: time.Now(),
	}
	if p.members.objects != nil {
		s.Reports = p.members.objects
	}
	return s
}

// follow makes the launch templates name what the pointer names.
func (r *gcReport) follow(ctx context.Context, p *parts) {
	if err := p.FollowTemplates(ctx, func(wrong bool, text string) {
		if wrong {
			r.Warnings = append(r.Warnings, text)
		} else {
			r.Templates = append(r.Templates, text)
		}
	}); err != nil {
		r.Warnings = append(r.Warnings, words.OneLine(err))
	}
}

// entryOfGC is the line of the history.
func entryOfGC(ctx context.Context, plan sweep.Plan, began time.Time) pointer.Entry {
	err := failedGC(ctx, plan.Items)
	e := pointer.Entry{
		Verb: verbGC, Message: "removed " + removed(plan.Items), Result: ended(err),
		Generation: plan.Generation, Took: time.Since(began).Milliseconds(),
	}
	if err != nil {
		e.Error = words.OneLine(err)
	}
	for _, item := range plan.Items {
		if item.Removed {
			e.Removed = append(e.Removed, item.Kind+" "+item.ID)
		}
	}
	return e
}

// failedGC is ctx's error where that is why.
func failedGC(ctx context.Context, items []sweep.Item) error {
	err := sweep.Failed(items)
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// removed counts: "2 trees, 1 volume".
func removed(items []sweep.Item) string {
	count := map[string]int{}
	for _, item := range items {
		if item.Removed {
			count[item.Kind] += item.Things()
		}
	}
	var counts []string
	for _, kind := range []string{gc.KindTree, gc.KindSnapshot, gc.KindPack, gc.KindVolume, gc.KindRecord, gc.KindReports} {
		if n := count[kind]; n > 0 {
			counts = append(counts, words.Count(n, strings.TrimSuffix(kind, "s")))
		}
	}
	return cmp.Or(strings.Join(counts, ", "), "nothing")
}

func (p *program) printGC(r gcReport) error {
	removed := 0
	if r.Named != "" {
		fmt.Fprintf(p.stdout, "instances that launch start from %s now\n", r.Named)
	}
	for _, text := range r.Templates {
		fmt.Fprintln(p.stdout, text)
	}
	for _, text := range r.Warnings {
		fmt.Fprintf(p.stdout, "warning: %s\n", text)
	}
	for _, item := range r.Items {
		word := "removed"
		switch {
		case r.DryRun:
			word = "would remove"
		case !item.Removed:
			word = "NOT removed"
		default:
			removed++
		}
		fmt.Fprintf(p.stdout, "%s %s %s (%s): %s", word, item.Kind, item.ID, item.Created.UTC().Format(time.RFC3339), item.Why)
		if item.Error != "" {
			fmt.Fprintf(p.stdout, ": %s", item.Error)
		}
		fmt.Fprintln(p.stdout)
	}
	if r.DryRun {
		for _, item := range r.Kept {
			fmt.Fprintf(p.stdout, "keeps %s %s (%s): %s\n", item.Kind, item.ID, item.Created.UTC().Format(time.RFC3339), item.Why)
		}
	}
	var err error
	switch {
	case len(r.Items) == 0:
		_, err = fmt.Fprintln(p.stdout, "nothing to remove")
	case r.DryRun:
		_, err = fmt.Fprintf(p.stdout, "dry run: %d things would be removed; nothing was changed\n", len(r.Items))
	default:
		_, err = fmt.Fprintf(p.stdout, "%d of %d things removed\n", removed, len(r.Items))
	}
	return err
}
