package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/cli"
	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/server"
	"ebs-release/internal/snapshot"
	"ebs-release/internal/status"
	"ebs-release/internal/volume"
	"ebs-release/internal/words"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/spf13/cobra"
)

func (p *program) keyRotateCommand() *cobra.Command {
	var finish, compromised bool
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Put a new signing key in the place of the old one",
		Long: `Put a new signing key in the place of the old one, in two steps. The first one
makes the key, in the file signing-key beside the old one: back it up, and copy
it to the other release servers of the store. From then on both sign, so that
who knows only the old one goes on, and each publish gives the new one to
members and snapshots. When all of them have it, --finish drops the old one; it
refuses, and says who is behind, until then. In a directory store the key of the
packs is rotated, too: it travels in the packs of new releases. Whatever is
interrupted goes on when it is run again.

Agents with trusted-keys believe that setting alone, and nobody else can see it.
Add the new line to it (` + "`ebs-release key show`" + `) before --finish;
` + "`ebs-release-agent doctor`" + ` says on each whether it is there.

With --compromised somebody else may have the old key, or read a snapshot. A new
key takes its place at once, and another one opens the packs of a directory
store. Who has seen the new key refuses what the old one signed. Look at the
pointer, ` + "`ebs-release key sign`" + `, and publish: that makes a snapshot with the new
keys, and tells the members that are reached by ssh. The older snapshots are
named no more, and gc deletes them. Members that follow, or are not reached,
believe the old key until they are replaced: see operations.md, keys. Run once
more it makes one more key.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if finish && compromised {
				return exit.With(exit.Usage, errors.New("--finish and --compromised: want one of them"))
			}
			return p.withKeys(cmd.Context(), func(ctx context.Context, k keyring) error {
				return p.changeKeys(ctx, k, verbKeyRotate, func(did func(string, ...any)) (next string, err error) {
					switch {
					case compromised:
						return nextSign, k.keys.Compromised(ctx, !pointer.InS3(k.place), did)
					case finish:
						if err := p.nobodyBehind(ctx, k); err != nil {
							return "", err
						}
						return nextCopy, k.keys.Finish(ctx, did)
					}
					return nextFinish, k.keys.Rotate(ctx, !pointer.InS3(k.place), did)
				})
			})
		},
	}
	cmd.Flags().BoolVar(&finish, "finish", false, "drop the old key, when every member and every snapshot has the new one")
	cmd.Flags().BoolVar(&compromised, "compromised", false, "somebody else may have the old key: it counts no more, here and now")
	return cmd
}

// What is to be done after a step.
const (
	nextFinish = "both keys sign. Publish as always; when members and snapshots have the new one: ebs-release key rotate --finish"
	nextCopy   = "the new key signs alone, from the next publish on. Copy its file to the other release servers, and keep a copy"
	nextSign   = "look at the pointer, and sign it: ebs-release key sign; then publish, and replace members that follow (operations.md, keys)"
)

// changeKeys does something to the keys while no publish works on the volume, and reports.
func (p *program) changeKeys(
	ctx context.Context, k keyring, verb string, do func(did func(string, ...any)) (next string, err error),
) (err error) {
	unlock, err := k.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	report := keyInitReport{Schema: status.Schema, Did: []string{}}
	report.Next, err = do(func(format string, args ...any) {
		report.Did = append(report.Did, fmt.Sprintf(format, args...))
		fmt.Fprintf(p.stderr, format+"\n", args...)
	})
	if len(report.Did) > 0 {
		p.record(ctx, k.store, pointer.Entry{Verb: verb, Message: strings.Join(report.Did, ", "), Result: ended(err)})
	}
	switch {
	case err != nil:
		return halfway(ctx, err, report.Did)
	case p.output == cli.JSON:
		return p.printJSON(report)
	case report.Next != "":
		_, err = fmt.Fprintln(p.stdout, report.Next)
	case len(report.Did) == 0:
		_, err = fmt.Fprintln(p.stdout, "everything was done before")
	}
	return err
}

// nobodyBehind says who may know only the old key: members by the generation that they report, and
// snapshots by the one that they are of. What trusted-keys says on a member, nobody sees from here.
func (p *program) nobodyBehind(ctx context.Context, k keyring) error {
	ring, err := k.keys.Open()
	if err != nil || len(ring.Signing) < 2 { // it was done, or never begun
		return err
	}
	values, err := p.settings("groups")
	if err != nil {
		return err
	}
	k.store.SignWith(ring.Trusted)
	is, err := k.store.Read(ctx)
	switch {
	case err != nil:
		return err
	case is.Generation > 0 && (is.KeysSince == 0 || !slices.Equal(is.Keys, ring.Public())):
		return advice.Try(errors.New("nothing was published since the new key was made, so nobody has it"), "ebs-release publish")
	}
	cfg, err := loadAWS(ctx)
	if err != nil {
		return err
	}
	listed, err := newMembers(cfg, values.List("groups"), k.store).List(ctx)
	if err != nil {
		return fmt.Errorf("list the members: %w", err)
	}
	var members, snapshots []string
	for _, m := range listed {
		leaves := publish.View(m, is).Standing == publish.StandsLeaving
		packs := !pointer.InS3(k.place) && ring.PacksBehind(m.Release)
		if !leaves && (server.Behind(is, m.Generation) || packs || !volume.Serves(m.State)) {
			members = append(members, m.InstanceID)
		}
	}
	all, err := snapshot.All(ctx, ec2.NewFromConfig(cfg))
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.Store == k.id && s.State != types.SnapshotStateError && server.Behind(is, s.Generation) {
			snapshots = append(snapshots, s.ID)
		}
	}
	if len(members)+len(snapshots) == 0 {
		return nil
	}
	return advice.Try(fmt.Errorf("the new key came with generation %d, and %s and %s have only the old one (%s)",
		is.KeysSince, words.Count(len(members), "member"), words.Count(len(snapshots), "snapshot"), few(slices.Concat(members, snapshots))),
		"ebs-release converge, publish a release that is new, and gc; then again")
}

// few names the first of many.
func few(names []string) string {
	const most = 6
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more)
	}
	return strings.Join(names, ", ")
}
