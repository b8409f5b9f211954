package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/boot/disks"
	"ebs-release/internal/cli"
	"ebs-release/internal/exit"
	"ebs-release/internal/flock"
	"ebs-release/internal/status"
	"ebs-release/internal/words"

	"github.com/spf13/cobra"
)

func (p *program) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show what is served here; exit 3 when this member is not ready",
		Long: `Show what is served here; exit 3 when this member is not ready. It changes
nothing. The state is one of:

ready    the release is served
booting  the boot is at the stage that is shown
warmed   it waits in its group's warm pool, and serves nothing
failed   the boot failed, or the volume does not answer: "error" says why

Other lines, where there is something to say:

warning         the release is served, but something has to be done
wrong           why a member that follows is not on the pointer's release
EBS has loaded  how much of the volume EBS has loaded ahead of reads
read            how many files were read after the boot
verified        what came of that; damaged: a file that is not as it should be
reading         what keeps it from reading on`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			now, err := p.observe(cmd.Context())
			if err != nil {
				return err
			}
			if now.Follow, err = p.runDir.ReadFollow(); err != nil { // it is for people
				now.Follow = &status.Follow{Trouble: words.OneLine(err)}
			}
			if now.Warm, err = p.runDir.ReadWarm(); err != nil { // as well
				now.Warm = &status.Warm{Trouble: words.OneLine(err)}
			}
			if l, err := p.runDir.ReadLoading(); err == nil && l != nil && l.VolumeID == now.VolumeID { // as well
				now.Loading = l
			}
			if now.Follow != nil {
				now.Rollout = now.Follow.Rollout
			} else if now.State == status.Ready {
				now.Rollout = p.side(cmd.Context(), now)
			}
			if err := p.printStatus(now); err != nil {
				return err
			}
			return notReady(now)
		},
	}
}

// observe is the status that the boot left, and over it what the volume says now: a push may have
// moved it on.
func (p *program) observe(ctx context.Context) (status.Status, error) {
	s, err := p.runDir.Read()
	if err != nil || s.State != status.Ready {
		return s, err
	}
	locked, err := flock.Held(p.runDir.LockPath())
	if err != nil {
		return s, fmt.Errorf("look whether an `up` goes on: %w", err)
	}
	if locked { // it has not written its status yet, or will not before it replaces what is served
		s.State, s.Stage = status.Booting, ""
		return s, nil
	}
	return disks.Observe(ctx, p.logger(), s)
}

// notReady is nil for a member that is ready.
func notReady(s status.Status) error {
	switch {
	case s.State == status.Ready:
		return nil
	case s.State == status.Warmed:
		return exit.With(exit.Unchanged, errors.New("not ready: warmed: it waits in the warm pool until its group takes it into service"))
	case s.Error != "":
		return exit.With(exit.Unchanged, fmt.Errorf("not ready: %s: %s", s.State, s.Error))
	case s.Stage != "":
		return exit.With(exit.Unchanged, advice.Try(fmt.Errorf("not ready: %s, stage %s", s.State, s.Stage), "journalctl -u ebs-release-agent"))
	default:
		return exit.With(exit.Unchanged, advice.Try(fmt.Errorf("not ready: %s", s.State), "systemctl status ebs-release-agent"))
	}
}

func (p *program) printStatus(s status.Status) error {
	if p.output == cli.JSON {
		return cli.PrintJSON(p.stdout, s)
	}
	id := s.VolumeID
	if s.Brought {
		id += " (came with the instance)"
	}
	rows := [][]string{
		{"state", s.State},
		{"stage", s.Stage},
		{"generation", strconv.FormatInt(s.Generation, 10)},
		{"release", s.Release},
		{"volume made from", s.SnapshotID},
		{"volume", id},
		{"device", s.Device},
		{"mount point", s.MountPoint},
		{"instance", s.InstanceID},
	}
	if !s.Finished.IsZero() {
		rows = append(rows, []string{"last boot took", s.Finished.Sub(s.Started).Round(time.Millisecond).String()})
	}
	if s.Rollout.Generation > 0 {
		rows = append(rows, []string{"rollout", s.Rollout.String()})
	}
	if s.Error != "" {
		rows = append(rows, []string{"error", s.Error})
	}
	if s.Warning != "" {
		rows = append(rows, []string{"warning", s.Warning})
	}
	if s.Loading != nil {
		rows = append(rows, []string{"EBS has loaded", s.Loading.Says()})
	}
	return cli.PrintTable(p.stdout, append(append(rows, followRows(s.Follow)...), warmRows(s.Warm)...))
}

func followRows(f *status.Follow) (rows [][]string) {
	if f == nil {
		return nil
	}
	looked := "never"
	if !f.Looked.IsZero() {
		looked = fmt.Sprintf("%s ago: generation %d, release %s", time.Since(f.Looked).Round(time.Second), f.Generation, f.Release)
	}
	rows = append(rows, []string{"looked at the pointer", looked})
	if f.Trouble != "" {
		since := ""
		if !f.Since.IsZero() {
			since = fmt.Sprintf(" (since %s)", f.Since.Format(time.RFC3339))
		}
		rows = append(rows, []string{"wrong", f.Trouble + since})
	}
	return rows
}
