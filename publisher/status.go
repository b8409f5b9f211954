package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"ebs-release/internal/cli"
	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/status"
	"ebs-release/internal/words"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/spf13/cobra"
)

// statusReport is what `status --output json` prints.
type statusReport struct {
	Schema     int               `json:"schema"`
	Generation int64             `json:"generation"` // of the pointer; 0: nothing is published
	Release    string            `json:"release"`
	Digest     string            `json:"digest,omitempty"`
	Snapshots  map[string]string `json:"snapshots,omitempty"`
	Lag        *publish.Lag      `json:"snapshot_lag,omitempty"` // of the snapshots; none: they hold the release
	Created    *time.Time        `json:"created,omitempty"`
	By         string            `json:"by,omitempty"`
	Message    string            `json:"message,omitempty"`
	Rollout    *pointer.Rollout  `json:"rollout,omitempty"`  // that is open; side of each member says what it is given
	Hold       *pointer.Hold     `json:"hold,omitempty"`     // that keeps publishes back
	Lock       string            `json:"lock,omitempty"`     // who publishes now
	Warnings   []string          `json:"warnings,omitempty"` // what stands in the way of a publish, or of a quick boot
	OnIt       int               `json:"on_it"`
	Total      int               `json:"total"` // without those that leave their group, and those in a warm pool
	Members    []publish.Member  `json:"members"`
}

func (p *program) statusCommand() *cobra.Command {
	var live bool
	interval := 2 * time.Second
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show which member is on which generation, those behind first",
		Long: `Show which member is on which generation, those behind first, what members say
is wrong with them, and what to do. It changes nothing.

STATE is what the member reported last. STANDING compares that with the pointer:

current      on the pointer's release, and its programs have succeeded
behind       on an older generation or another release
hook failed  on the release, but one of its programs has not succeeded
booting      its agent has not reported yet
ahead        on a higher generation than the pointer: the pointer is old
other store  its agent reads the pointer of another store
leaving      on its way out of the group; not counted
warmed       in the group's warm pool: it serves nothing; not counted

SIDE, while a rollout is open: whether it is given the new release or the stable
one. VERIFIED, once a member has said so: what reading all its files found.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case live && p.output == cli.JSON:
				return exit.With(exit.Usage, errors.New("--live is for people; a program asks again: --output json without --live"))
			case interval < time.Second:
				return exit.With(exit.Usage, errors.New("--interval: want a second or more"))
			}
			source, err := p.statusSource(cmd.Context())
			if err != nil {
				return err
			}
			if live {
				return p.watch(cmd.Context(), source, interval)
			}
			report, err := source.look(cmd.Context())
			if err != nil {
				return err
			}
			if p.output == cli.JSON {
				return p.printJSON(report)
			}
			return printStatus(p.stdout, report)
		},
	}
	cmd.Flags().BoolVarP(&live, "live", "l", false, "show it again and again, until Ctrl-C")
	cmd.Flags().DurationVar(&interval, "interval", interval, "how often, with --live")
	return cmd
}

// statusSource is where status looks.
type statusSource struct {
	store     *pointer.Store
	members   members
	keys      keyPlaces
	mostLag   time.Duration
	templates templates
}

func (p *program) statusSource(ctx context.Context) (statusSource, error) {
	values, err := p.settings("pointer-store", "groups")
	if err != nil {
		return statusSource{}, err
	}
	load := sync.OnceValues(func() (aws.Config, error) { return loadAWS(ctx) })
	store, err := openStore(ctx, values.Get("pointer-store"), load)
	if err != nil {
		return statusSource{}, err
	}
	cfg, err := load()
	if err != nil {
		return statusSource{}, err
	}
	return statusSource{
		store, newMembers(cfg, values.List("groups"), store), placesOf(values), values.Duration("snapshot-lag"), templatesOf(cfg, values),
	}, nil
}

func (s statusSource) look(ctx context.Context) (statusReport, error) {
	current, err := s.store.Read(ctx)
	if err != nil {
		return statusReport{}, fmt.Errorf("read the pointer: %w", err)
	}
	listed, err := s.members.List(ctx)
	if err != nil {
		return statusReport{}, fmt.Errorf("list the members: %w", err)
	}
	report := statusReport{
		Schema: status.Schema, Generation: current.Generation, Release: current.Release, Digest: current.Digest, Snapshots: current.Snapshots,
		By: current.By, Message: current.Message, Members: []publish.Member{}, Rollout: current.Rollout,
	}
	if current.Hold.At(time.Now()) {
		report.Hold = current.Hold
	}
	if !current.Created.IsZero() {
		report.Created = &current.Created
	}
	holder, held, err := s.store.Holder(ctx)
	if err != nil && !errors.Is(err, os.ErrPermission) { // only its owner sees who publishes
		return statusReport{}, err
	}
	if held {
		report.Lock = holder.String()
	}
	if wrong := s.keys.wrong(ctx, s.store); wrong != nil {
		report.Warnings = append(report.Warnings, words.OneLine(wrong))
	}
	past, err := s.store.History(ctx)
	if err != nil && !errors.Is(err, os.ErrPermission) { // without it the lag is younger than it is
		return statusReport{}, err
	}
	if report.Lag = publish.LagOf(current, past); report.Lag != nil {
		if warning := report.Lag.Warning(s.mostLag); warning != "" {
			report.Warnings = append(report.Warnings, warning)
		}
	}
	behind, err := s.templates.Behind(ctx, current)
	if err != nil { // the members are there all the same
		behind = append(behind, words.OneLine(err))
	}
	report.Warnings = append(report.Warnings, behind...)
	warmed, err := s.members.Warmed(ctx)
	if err != nil { // they are for people to see
		report.Warnings = append(report.Warnings, words.OneLine(err))
	}
	for _, m := range append(listed, warmed...) {
		view := publish.View(m, current)
		report.Members = append(report.Members, view)
		switch view.Standing {
		case publish.StandsCurrent:
			report.OnIt++
			report.Total++
		case publish.StandsLeaving, publish.StandsWarmed:
		default:
			report.Total++
		}
	}
	slices.SortFunc(report.Members, func(a, b publish.Member) int { // stragglers first
		if aCurrent, bCurrent := isWell(a), isWell(b); aCurrent != bCurrent {
			if bCurrent {
				return -1
			}
			return 1
		}
		return strings.Compare(a.InstanceID, b.InstanceID)
	})
	return report, nil
}

// isWell: there is nothing to be done about it.
func isWell(m publish.Member) bool {
	return m.Standing == publish.StandsCurrent || m.Standing == publish.StandsWarmed
}

func printStatus(out io.Writer, r statusReport) error {
	switch {
	case r.Generation == 0:
		fmt.Fprintf(out, "nothing is published yet; %d members\n", r.Total)
		if said := lostPointer(r.Members); said != "" {
			fmt.Fprintln(out, said)
		}
	default:
		if r.Rollout != nil {
			fmt.Fprintf(out, "%s\n", printable(publish.SayRollout(pointer.Pointer{Rollout: r.Rollout}, time.Now())))
			fmt.Fprintf(out, "generation %d is stable: %d/%d members are on the side that they are given\n", r.Generation, r.OnIt, r.Total)
		} else {
			fmt.Fprintf(out, "generation %d is current: %d/%d members on it\n", r.Generation, r.OnIt, r.Total)
		}
		fmt.Fprintf(out, "release %s", r.Release)
		for region, id := range r.Snapshots {
			fmt.Fprintf(out, ", %s in %s", id, region)
		}
		if r.Lag != nil {
			fmt.Fprintf(out, " of generation %d (%v)", r.Lag.Generation, r.Lag)
		}
		if r.Created != nil {
			fmt.Fprintf(out, ", %s", r.Created.UTC().Format(time.RFC3339))
		}
		if r.By != "" {
			fmt.Fprintf(out, ", by %s", r.By)
		}
		if r.Message != "" {
			fmt.Fprintf(out, ": %s", printable(r.Message))
		}
		fmt.Fprintln(out)
	}
	if said := publish.SayHold(r.Hold, time.Now()); said != "" {
		fmt.Fprintln(out, printable(said))
	}
	if r.Lock != "" {
		fmt.Fprintf(out, "a publish is running: %s\n", r.Lock)
	}
	for _, warning := range r.Warnings {
		fmt.Fprintf(out, "warning: %s\n", warning)
	}
	for _, line := range r.complaints() {
		fmt.Fprintln(out, printable(line))
	}
	if r.Lock == "" && r.Generation > 0 {
		for _, line := range r.next() {
			fmt.Fprintln(out, line)
		}
	}
	if len(r.Members) > 0 {
		fmt.Fprintln(out)
	}
	return printMembers(out, r.Members)
}

// next says what to do about members that have booted and are not current.
func (r statusReport) next() (lines []string) {
	for _, todo := range []struct {
		standing publish.Standing
		says     string
	}{
		{publish.StandsBehind, "%d of them are behind: `ebs-release converge` brings them up to date, or says what is wrong with them"},
		{publish.StandsHookFailed,
			"%d of them have it, but a program of activate.d has not succeeded there: `ebs-release converge` runs it again, and says what it said"},
		{publish.StandsOtherStore, "%d of them belong to another pointer store: look at `pointer` in the settings of their agents"},
		{publish.StandsAhead,
			"%d of them are ahead of it: the pointer is an old copy, or somebody wrote their tags: `ebs-release publish` again goes above them"},
	} {
		n := 0
		for _, m := range r.Members {
			if m.Standing == todo.standing {
				n++
			}
		}
		if n > 0 {
			lines = append(lines, fmt.Sprintf(todo.says, n))
		}
	}
	damaged := 0
	for _, m := range r.Members {
		if m.Verified != nil && m.Verified.Bad > 0 {
			damaged++
		}
	}
	if damaged > 0 {
		lines = append(lines, fmt.Sprintf(
			"%d of them serve damaged files, which no pack has: replace these instances (`ebs-release-agent status` there names them)", damaged))
	}
	return lines
}

// mostComplaints is how many members are named with what they say themselves.
const mostComplaints = 8

// complaints are what members say of why they are behind, those with the same trouble together.
func (r statusReport) complaints() (lines []string) {
	who := map[string][]string{}
	for _, m := range r.Members {
		if m.Cause != "" {
			if who[m.Error] == nil {
				lines = append(lines, m.Error)
			}
			who[m.Error] = append(who[m.Error], m.InstanceID)
		}
	}
	rest := max(len(lines)-mostComplaints, 0)
	lines = lines[:len(lines)-rest]
	for i, said := range lines {
		lines[i] = who[said][0] + ": " + said
		if n := len(who[said]); n > 1 {
			lines[i] = fmt.Sprintf("%s and %d more: %s", who[said][0], n-1, said)
		}
	}
	if rest > 0 {
		lines = append(lines, fmt.Sprintf("and %d other causes, see --output json", rest))
	}
	return lines
}

// lostPointer says what members are on that have a release, though none is published: the pointer
// store is another one, or was lost.
func lostPointer(all []publish.Member) string {
	var newest publish.Member
	n := 0
	for _, m := range all {
		switch {
		case m.Generation > newest.Generation:
			newest, n = m, 1
		case m.Generation == newest.Generation && m.Generation > 0:
			n++
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d members report generation %d, release %s: is this the right pointer store? "+
		"After the loss of a release server see `ebs-release help init`", n, newest.Generation, newest.Release)
}
