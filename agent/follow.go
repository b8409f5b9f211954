package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"time"

	"ebs-release/internal/activation"
	"ebs-release/internal/advice"
	"ebs-release/internal/boot/account"
	"ebs-release/internal/config"
	"ebs-release/internal/follow"
	"ebs-release/internal/logging"
	"ebs-release/internal/output"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/status"

	"github.com/spf13/cobra"
)

// The units that run programs.
const (
	activateUnit = "ebs-release-activate.service"
	beforeUnit   = "ebs-release-before@%s.service" // as before has it
)

func (p *program) followCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "follow",
		Short: "Look at the pointer again and again, and go where it goes",
		Long: `Ask the store for the pointer every follow-interval, and bring this member to
the release that it names: fetch the packs, make the new tree beside the one
that is served, have the programs in /etc/ebs-release/stage.d look at it, ask
once more, run those of drain.d, make it the current one, run those of
activate.d and ready.d, and report to the publisher. The programs run in units
of their own, ebs-release-before@.service and
` + activateUnit + `. The unit
ebs-release-follow.service runs this, and nobody has to log in to this member.

Only a pointer that is signed by a trusted key, and that does not go back,
counts. Whatever fails, what is served goes on being served, and the next look
tries again. "ebs-release-agent status" shows when it looked last, and what is
wrong. It needs root.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.follow(cmd.Context()) },
	}
}

func (p *program) follow(ctx context.Context) error {
	values, err := p.bootSettings()
	if err != nil {
		return err
	}
	log := p.logger()
	fetcher, err := p.afterBoot(values, log)
	if err != nil {
		return err
	}
	f := follow.Follower{
		Store: fetcher, Trusted: values.List("trusted-keys"),
		Member: &follower{program: p, Served: account.NewServed(p.accountSettings(values), log), log: log, programs: programsFolder},
		Least:  int64(values.Int("min-generation")), Keep: values.Int("keep"), Interval: followInterval(values), Log: log,
	}
	before, err := p.lastSeen()
	if err != nil {
		return err
	}
	if err := logging.TellSystemd(ctx, "READY=1"); err != nil {
		log.Debug("cannot tell systemd", "error", err)
	}
	f.Run(ctx, before)
	return nil
}

// followInterval: a request to S3 costs money, and one to the release server does not.
func followInterval(values config.Values) time.Duration {
	switch {
	case values.Get("follow-interval") != "":
		return values.Duration("follow-interval")
	case pointer.InS3(values.Get("pointer")):
		return follow.IntervalInS3
	}
	return follow.Interval
}

// checkFollowInterval checks the setting follow-interval.
func checkFollowInterval(value string) error {
	if d, err := time.ParseDuration(value); value != "" && (err != nil || d < time.Second || d > time.Hour) {
		return errors.New("want a duration from 1s to 1h")
	}
	return nil
}

// bootReport is how long after a boot its report is still what was reported last.
const bootReport = time.Minute

// lastSeen is what an earlier run has told. Before the first one it is what the boot has reported.
func (p *program) lastSeen() (status.Follow, error) {
	before, err := p.runDir.ReadFollow()
	if err != nil {
		return status.Follow{}, advice.Try(err, "rm it")
	}
	if before != nil {
		return *before, nil
	}
	s, err := p.runDir.Read()
	if err != nil || s.State != status.Ready || time.Since(s.Finished) > bootReport {
		return status.Follow{}, err
	}
	return status.Follow{
		Reported: status.Reported{VolumeID: s.VolumeID, Generation: s.Generation, Release: s.Release, Ready: !s.Pending},
	}, nil
}

// follower is follow.Member.
type follower struct {
	*program
	*account.Served

	log      *slog.Logger
	programs string           // the directory that holds theirs
	me       pointer.Instance // once asked: an instance stays where it is
	said     string           // to systemd
}

func (f *follower) Volume(ctx context.Context) (*release.Volume, string, error) {
	return f.readyVolume(ctx)
}

func (f *follower) Who(ctx context.Context) (pointer.Instance, error) {
	if f.me.ID == "" {
		me, err := f.whoSoon(ctx)
		if err != nil {
			return me, err
		}
		f.me = me
	}
	return f.me, nil
}

// RunPrograms has systemd run them, in a unit that is not hardened as this one is.
func (f *follower) RunPrograms(ctx context.Context) error {
	return f.startUnit(ctx, activateUnit)
}

// Stage is follow.Member's.
func (f *follower) Stage(ctx context.Context, p pointer.Pointer) error {
	_, err := f.runBefore(ctx, activation.StageFolder, p)
	return err
}

// Drain is follow.Member's.
func (f *follower) Drain(ctx context.Context, p pointer.Pointer) (bool, error) {
	return f.runBefore(ctx, activation.DrainFolder, p)
}

// runBefore starts a unit only where there are programs for it.
func (f *follower) runBefore(ctx context.Context, folder string, p pointer.Pointer) (ran bool, err error) {
	if !(activation.Programs{Folder: f.programs}).Has(folder) {
		return false, nil
	}
	return true, f.startUnit(ctx, fmt.Sprintf(beforeUnit, before(folder, p)))
}

// startUnit has systemd run programs, and says what they said.
func (f *follower) startUnit(ctx context.Context, unit string) error {
	stale := f.runDir.ForgetPrograms() // the unit may not start at all, and then nobody replaces it
	said := &output.Ends{}
	cmd := exec.CommandContext(ctx, "systemctl", "start", unit)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = said, said, time.Second
	err := cmd.Run()
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	if ended, readErr := f.runDir.ReadPrograms(); stale == nil && readErr == nil && ended != nil && ended.Error != "" {
		if ended.Refused {
			return follow.Refusal{Err: advice.Parse(ended.Error)}
		}
		return advice.Parse(ended.Error)
	}
	answer := strings.Join(strings.Fields(said.String()), " ")
	return advice.Try(fmt.Errorf("systemctl start %s: %w: %s", unit, err, answer), "journalctl -u %s", unit)
}

func (f *follower) Tell(s status.Follow) error {
	said := fmt.Sprintf("STATUS=generation %d, release %s", s.Generation, s.Release)
	if s.Trouble != "" {
		said = "STATUS=" + s.Trouble
	}
	if said != f.said {
		if err := logging.MentionToSystemd(context.Background(), said); err != nil {
			f.log.Debug("cannot tell systemd", "error", err)
		}
		f.said = said
	}
	return f.runDir.WriteFollow(s)
}
