package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"ebs-release/internal/cli"
	"ebs-release/internal/exit"
	"ebs-release/internal/fleet"
	"ebs-release/internal/pointer"
	"ebs-release/internal/status"
	"ebs-release/internal/volume"
	"ebs-release/internal/words"

	"github.com/spf13/cobra"
)

// verifyReport is what `verify --output json` prints.
type verifyReport struct {
	Schema  int              `json:"schema"`
	Members []verifiedMember `json:"members"`
}

// verifiedMember is the verdict on one member.
type verifiedMember struct {
	InstanceID string `json:"instance_id"`
	Generation int64  `json:"generation"`
	Release    string `json:"release"`
	OK         bool   `json:"ok"`
	Files      int    `json:"files"` // that were read
	Error      string `json:"error,omitempty"`
}

func (p *program) verifyCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "verify MEMBER… | --all",
		Short: "Compare every file on members with what was published",
		Long: `Read every file of the current release on some members (instance ids or
addresses). Compare content, mode and type with the manifest there, and the
manifest with what was published. Nothing is changed. Exit 1: a member is
damaged, or could not be verified.`,
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return errors.New("want the instance ids of members, or --all")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return p.verify(cmd.Context(), args) },
	}
	cmd.Flags().BoolVar(&all, "all", false, "verify every member that is ready")
	return cmd
}

func (p *program) verify(ctx context.Context, names []string) error {
	values, err := p.settings("pointer-store", "groups")
	if err != nil {
		return err
	}
	parts, err := newParts(ctx, values, p.configFile, job{verb: "verify"})
	if err != nil {
		return before(ctx, err)
	}
	defer func() { _ = parts.volume.close() }()
	current, err := parts.store.Read(ctx)
	if err != nil {
		return before(ctx, err)
	}
	listed, err := parts.members.List(ctx)
	if err != nil {
		return before(ctx, fmt.Errorf("list the members: %w", err))
	}
	chosen, err := named(listed, names)
	if err != nil {
		return exit.With(exit.Usage, err)
	}
	if err := parts.checks.CheckSSHKey(ctx); err != nil {
		return before(ctx, err)
	}
	report := verifyReport{Schema: status.Schema, Members: parts.verifyAll(ctx, current, chosen)}
	if err := ctx.Err(); err != nil {
		return err
	}
	if p.output == cli.JSON {
		err = p.printJSON(report)
	} else {
		err = p.printVerified(report)
	}
	return errors.Join(err, report.err())
}

// named finds the members that are meant; without names it is those that are ready.
func named(listed []fleet.Member, names []string) ([]fleet.Member, error) {
	var chosen []fleet.Member
	for _, m := range listed {
		if slices.Contains(names, m.InstanceID) || slices.Contains(names, m.Address) || len(names) == 0 && volume.Serves(m.State) {
			chosen = append(chosen, m)
		}
	}
	for _, name := range names {
		if !slices.ContainsFunc(chosen, func(m fleet.Member) bool { return m.InstanceID == name || m.Address == name }) {
			return nil, fmt.Errorf("%s is no member, see `ebs-release status`", name)
		}
	}
	return chosen, nil
}

// verifyAll works on as many members at a time as a publish does.
func (p *parts) verifyAll(ctx context.Context, current pointer.Pointer, chosen []fleet.Member) []verifiedMember {
	verdicts := make([]verifiedMember, len(chosen))
	slots := make(chan struct{}, p.Settings.Parallel)
	var workers sync.WaitGroup
	for i, m := range chosen {
		workers.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			v := verifiedMember{InstanceID: m.InstanceID, Generation: m.Generation, Release: m.Release}
			files, err := p.verifyOne(ctx, current, m)
			if v.OK, v.Files = err == nil, files; err != nil {
				v.Error = words.OneLine(err)
			}
			verdicts[i] = v
		})
	}
	workers.Wait()
	return verdicts
}

func (p *parts) verifyOne(ctx context.Context, current pointer.Pointer, m fleet.Member) (files int, err error) {
	ctx, cancel := context.WithTimeout(ctx, p.Settings.MemberTimeout)
	defer cancel()
	// What was published is known here, so that the member's word is not all there is.
	digest := current.Digest
	switch {
	case m.Release == "":
		return 0, errors.New("its agent has not reported a release yet")
	case m.Release != current.Release:
		if digest, err = p.volume.ManifestDigest(m.Release); err != nil {
			return 0, fmt.Errorf("it is on release %s, which is not on the release volume any more: %w", m.Release, err)
		}
	}
	session, err := p.dialer.open(ctx, m)
	if err != nil {
		return 0, err
	}
	defer func() { _ = session.Close() }()
	return session.Verify(ctx, m.Release, digest, m.Generation)
}

func (r verifyReport) err() error {
	var bad []string
	for _, m := range r.Members {
		if !m.OK {
			bad = append(bad, m.InstanceID)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d members are not what was published, or could not be verified: %s",
		len(bad), len(r.Members), strings.Join(bad, ", "))
}

func (p *program) printVerified(r verifyReport) error {
	files := 0
	for _, m := range r.Members {
		if m.OK {
			files += m.Files
			fmt.Fprintf(p.stdout, "%s  ok    generation %d, release %s, %d files\n", m.InstanceID, m.Generation, m.Release, m.Files)
		} else {
			fmt.Fprintf(p.stdout, "%s  FAIL  %s\n", m.InstanceID, m.Error)
		}
	}
	_, err := fmt.Fprintf(p.stdout, "%d members, %d files read\n", len(r.Members), files)
	return err
}
