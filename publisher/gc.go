package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/cli"
	"ebs-release/internal/exit"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/status"
	"ebs-release/internal/volume"
	"ebs-release/internal/words"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/spf13/cobra"
)

// gcReport is what `gc --output json` prints.
type gcReport struct {
	Schema    int      `json:"schema"`
	DryRun    bool     `json:"dry_run"`
	Items     []gcItem `json:"items"` // that nobody needs
	Kept      []gcItem `json:"kept"`
	Named     string   `json:"named,omitempty"`            // the snapshot that the pointer names since then
	Templates []string `json:"launch_templates,omitempty"` // what was done about them
	Warnings  []string `json:"warnings,omitempty"`
}

func (r *gcReport) fill(plan []gcItem) {
	r.Items, r.Kept = []gcItem{}, []gcItem{}
	for _, item := range plan {
		if item.Kept {
			r.Kept = append(r.Kept, item)
		} else {
			r.Items = append(r.Items, item)
		}
	}
}

// gcItem is something that nobody needs, or that somebody does.
type gcItem struct {
	Kind    string    `json:"kind"`
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	Why     string    `json:"why"`
	Kept    bool      `json:"-"`
	keys    []string  // of the objects that it stands for
	Removed bool      `json:"removed"`
	Error   string    `json:"error,omitempty"`
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
	s := inventory{grace: grace, now: time.Now()}
	report := gcReport{Schema: status.Schema, DryRun: dryRun}
	if err := parts.look(ctx, &s); err != nil {
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
	report.fill(s.plan())
	if !dryRun && len(report.Items) > 0 {
		unlock, lockErr := parts.lock(ctx, parts.Settings.Who+" (gc)")
		if lockErr != nil {
			return before(ctx, lockErr)
		}
		defer func() { err = errors.Join(err, unlock()) }()
		if err := parts.look(ctx, &s); err != nil { // once more: a publish may just have ended
			return before(ctx, err)
		}
		report.fill(s.plan())
		parts.remove(ctx, report.Items)
		p.record(ctx, parts.store, report.entry(ctx, s))
	}
	if p.output == cli.JSON {
		err = p.printJSON(report)
	} else {
		err = p.printGC(report)
	}
	return errors.Join(err, report.err(ctx))
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

// lock keeps publishes out: of the store, and of the release volume, as a store in S3 is never
// locked.
func (p *parts) lock(ctx context.Context, who string) (unlock func() error, err error) {
	store, err := p.store.Lock(ctx, who)
	if errors.Is(err, pointer.ErrLocked) {
		err = exit.With(exit.Conflict, err)
	}
	if err != nil {
		return nil, err
	}
	volume, err := p.volume.LockPublish()
	if err != nil {
		return nil, errors.Join(err, store())
	}
	return func() error { return errors.Join(volume(), store()) }, nil
}

// remove goes on after an error: the rest may be removed all the same.
func (p *parts) remove(ctx context.Context, items []gcItem) {
	for i := range items {
		item := &items[i]
		var err error
		switch item.Kind {
		case gc.KindTree:
			err = p.volume.Remove(ctx, item.ID)
		case gc.KindSnapshot:
			err = p.maker.Delete(ctx, item.ID)
		case gc.KindVolume:
			_, err = p.ec2.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: aws.String(item.ID)})
			if volume.IsNotFound(err) {
				err = nil
			}
		case gc.KindPack:
			err = p.store.Objects().Delete(ctx, item.ID)
		case gc.KindReports:
			err = p.members.objects.remove(ctx, item.keys)
		case gc.KindRecord:
			err = os.RemoveAll(item.ID)
		}
		if item.Removed = err == nil; err != nil {
			item.Error = words.OneLine(err)
		}
	}
}

// entry is the line of the history.
func (r gcReport) entry(ctx context.Context, s inventory) pointer.Entry {
	err := r.err(ctx)
	e := pointer.Entry{
		Verb: verbGC, Message: "removed " + r.removed(), Result: ended(err),
		Generation: s.pointer.Generation, Took: time.Since(s.now).Milliseconds(),
	}
	if err != nil {
		e.Error = words.OneLine(err)
	}
	for _, item := range r.Items {
		if item.Removed {
			e.Removed = append(e.Removed, item.Kind+" "+item.ID)
		}
	}
	return e
}

// removed counts: "2 trees, 1 volume".
func (r gcReport) removed() string {
	count := map[string]int{}
	for _, item := range r.Items {
		if item.Removed {
			count[item.Kind] += max(1, len(item.keys))
		}
	}
	var words []string
	for _, kind := range []string{gc.KindTree, gc.KindSnapshot, gc.KindPack, gc.KindVolume, gc.KindRecord, gc.KindReports} {
		switch n := count[kind]; n {
		case 0:
		case 1:
			words = append(words, "1 "+strings.TrimSuffix(kind, "s"))
		default:
			words = append(words, fmt.Sprintf("%d %ss", n, strings.TrimSuffix(kind, "s")))
		}
	}
	if len(words) == 0 {
		return "nothing"
	}
	return strings.Join(words, ", ")
}

func (r gcReport) err(ctx context.Context) error {
	failed, first := 0, ""
	for _, item := range r.Items {
		if item.Error != "" {
			failed++
			if first == "" {
				first = fmt.Sprintf("%s %s: %s", item.Kind, item.ID, item.Error)
			}
		}
	}
	switch {
	case failed == 0:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("%d of %d things could not be removed, such as %s", failed, len(r.Items), first)
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
