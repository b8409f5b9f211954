package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"

	"github.com/spf13/cobra"
)

// statusReport is what `status --output json` prints.
type statusReport struct {
	Schema     int               `json:"schema"`
	Generation int64             `json:"generation"` // of the pointer; 0: nothing is published
	Release    string            `json:"release"`
	Digest     string            `json:"digest,omitempty"`
	Snapshots  map[string]string `json:"snapshots,omitempty"`
	Created    *time.Time        `json:"created,omitempty"`
	By         string            `json:"by,omitempty"`
	Message    string            `json:"message,omitempty"`
	Lock       string            `json:"lock,omitempty"` // who publishes now
	OnIt       int               `json:"on_it"`
	Total      int               `json:"total"` // without those that leave their group
	Members    []publish.Member  `json:"members"`
}

func (p *program) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the current generation, and which member is on it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			report, err := p.status(cmd.Context())
			if err != nil {
				return err
			}
			if p.output == outputJSON {
				return p.printJSON(report)
			}
			return p.printStatus(report)
		},
	}
}

func (p *program) status(ctx context.Context) (statusReport, error) {
	values, err := p.settings("pointer-store", "groups")
	if err != nil {
		return statusReport{}, err
	}
	store, err := pointer.NewFolder(values.Get("pointer-store"))
	if err != nil {
		return statusReport{}, exit.With(exit.Usage, err)
	}
	current, err := store.Read(ctx)
	if err != nil {
		return statusReport{}, fmt.Errorf("read the pointer: %w", err)
	}
	cfg, err := loadAWS(ctx)
	if err != nil {
		return statusReport{}, err
	}
	listed, err := newMembers(cfg, values.List("groups")).List(ctx)
	if err != nil {
		return statusReport{}, fmt.Errorf("list the members: %w", err)
	}
	report := statusReport{
		Schema: 1, Generation: current.Generation, Release: current.Release, Digest: current.Digest, Snapshots: current.Snapshots,
		By: current.By, Message: current.Message, Members: []publish.Member{},
	}
	if !current.Created.IsZero() {
		report.Created = &current.Created
	}
	holder, held, err := store.Holder(ctx)
	if err != nil {
		return statusReport{}, err
	}
	if held {
		report.Lock = holder.String()
	}
	for _, m := range listed {
		view := publish.View(m, current.Generation)
		report.Members = append(report.Members, view)
		switch view.Standing {
		case "current":
			report.OnIt++
			report.Total++
		case "leaving":
		default:
			report.Total++
		}
	}
	slices.SortFunc(report.Members, func(a, b publish.Member) int { // stragglers first
		if aCurrent, bCurrent := a.Standing == "current", b.Standing == "current"; aCurrent != bCurrent {
			if bCurrent {
				return -1
			}
			return 1
		}
		return strings.Compare(a.InstanceID, b.InstanceID)
	})
	return report, nil
}

func (p *program) printStatus(r statusReport) error {
	switch {
	case r.Generation == 0:
		fmt.Fprintf(p.stdout, "nothing is published yet; %d members\n", r.Total)
	default:
		fmt.Fprintf(p.stdout, "generation %d is current: %d/%d members on it\n", r.Generation, r.OnIt, r.Total)
		fmt.Fprintf(p.stdout, "release %s", r.Release)
		for region, id := range r.Snapshots {
			fmt.Fprintf(p.stdout, ", %s in %s", id, region)
		}
		if r.Created != nil {
			fmt.Fprintf(p.stdout, ", %s", r.Created.UTC().Format(time.RFC3339))
		}
		if r.By != "" {
			fmt.Fprintf(p.stdout, ", by %s", r.By)
		}
		if r.Message != "" {
			fmt.Fprintf(p.stdout, ": %s", r.Message)
		}
		fmt.Fprintln(p.stdout)
	}
	if r.Lock != "" {
		fmt.Fprintf(p.stdout, "a publish is running: %s\n", r.Lock)
	}
	if len(r.Members) > 0 {
		fmt.Fprintln(p.stdout)
	}
	return printMembers(p.stdout, r.Members)
}
