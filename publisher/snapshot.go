package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ebs-release/internal/cli"
	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/status"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// snapshotFlags are those of verbs that have P6.
type snapshotFlags struct{ wait, none bool }

func (f *snapshotFlags) add(flags *pflag.FlagSet) {
	flags.BoolVar(&f.wait, "wait-snapshot", false, "wait until the snapshot is completed, and name it; exit 7 when it fails, or is late")
	flags.BoolVar(&f.none, "no-snapshot", false, "make none in P6: for those who publish often")
}

func (f *snapshotFlags) into(j *job) error {
	switch {
	case f.wait && f.none:
		return exit.With(exit.Usage, errors.New("--wait-snapshot and --no-snapshot: want one of them"))
	case f.wait:
		j.snapshot = publish.SnapshotWaited
	case f.none:
		j.snapshot = publish.SnapshotNone
	}
	return nil
}

// snapshotReport is what `snapshot --output json` prints.
type snapshotReport struct {
	Schema     int          `json:"schema"`
	Generation int64        `json:"generation"` // of the pointer
	Release    string       `json:"release"`
	SnapshotID string       `json:"snapshot_id"` // that the pointer names now
	Was        string       `json:"was"`         // that it named before
	Lag        *publish.Lag `json:"lag,omitempty"`
}

func (p *program) snapshotCommand() *cobra.Command {
	var anew bool
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Name the newest snapshot in the pointer, or make one",
		Long: `Make the pointer name the newest snapshot that EBS has completed, so that what
launches needs fewer packs. Where there is none that is newer, make one of the
current release, wait for it, and name it. No member is asked anything.

Only snapshots count that a publish of this store made of this release volume,
as the history has it, and from which packs lead to the current release.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.snapshot(cmd.Context(), anew) },
	}
	cmd.Flags().BoolVar(&anew, "new", false, "make one in any case")
	return cmd
}

func (p *program) snapshot(ctx context.Context, anew bool) error {
	values, err := p.settings("pointer-store", "groups")
	if err != nil {
		return err
	}
	parts, err := newParts(ctx, values, p.configFile, job{verb: verbSnapshot})
	if err != nil {
		return before(ctx, err)
	}
	defer func() { _ = parts.volume.close() }()
	talk := newTalker(p.stderr, p.getenv("TERM"))
	parts.Talk = talk.event
	started := time.Now()
	was, readErr := parts.store.Read(ctx)
	outcome, err := parts.Snapshot(ctx, anew)
	talk.close()
	is, isErr := parts.store.Read(context.WithoutCancel(ctx))
	report := snapshotReport{
		Schema: status.Schema, Generation: is.Generation, Release: is.Release,
		SnapshotID: is.Snapshots[parts.Settings.Region], Was: was.Snapshots[parts.Settings.Region],
	}
	if outcome.Committed && (report.SnapshotID != report.Was || err != nil) {
		p.record(ctx, parts.store, pointer.Entry{
			Verb: verbSnapshot, Message: "the pointer names " + report.SnapshotID, Result: ended(err), Generation: is.Generation,
			Took: time.Since(started).Milliseconds(), Error: outcome.Error,
		})
	}
	if err = errors.Join(err, readErr, isErr); err != nil {
		return err
	}
	past, err := parts.store.History(ctx)
	if err != nil {
		return err
	}
	report.Lag = publish.LagOf(is, past)
	if p.output == cli.JSON {
		return p.printJSON(report)
	}
	return p.printSnapshot(report)
}

func (p *program) printSnapshot(r snapshotReport) error {
	of := fmt.Sprintf("the current generation, %d", r.Generation)
	if r.Lag != nil {
		of = fmt.Sprintf("generation %d, %v", r.Lag.Generation, r.Lag)
	}
	_, err := fmt.Fprintf(p.stdout, "instances that launch start from %s, of %s\n", r.SnapshotID, of)
	return err
}
