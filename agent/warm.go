package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/boot/account"
	"ebs-release/internal/catchup"
	"ebs-release/internal/config"
	"ebs-release/internal/doctor"
	"ebs-release/internal/flock"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
	"ebs-release/internal/warm"
	"ebs-release/internal/words"

	"github.com/spf13/cobra"
)

const (
	warmOff        = "off"
	warmBackground = "background"
)

func (p *program) warmCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "warm",
		Short: "Read all files of the release, and compare them with the manifest",
		Long: `Read every file of the release that is served here, side by side, from the
disk and past the page cache, and compare it with its sha256 in the same read.
EBS loads a volume from its snapshot block by block as they are read: after
this all of them are there, and what the volume holds is proven. A file that
the disk has damaged is healed from the packs of the store, where these have
it; one that somebody has edited is named, and left. When another release
becomes current, what is new in it is read. Where EBS loads the volume by
itself (initialization-rate), EC2 is asked about once a minute how far it is.

The unit ebs-release-warm.service runs this, at idle priority. With the setting
warm = "off" it ends at once. "ebs-release-agent status" shows how far it is,
and what it found. It needs root. It has nothing to do with Auto Scaling's warm
pools.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.warm(cmd.Context()) },
	}
}

func (p *program) warm(ctx context.Context) error {
	values, err := p.bootSettings()
	if err != nil {
		return err
	}
	if values.Get("warm") == warmOff {
		_, err := fmt.Fprintln(p.stdout, "warm is off")
		return err
	}
	log := p.logger()
	fetcher, err := p.afterBoot(values, log)
	if err != nil {
		return err
	}
	member := &warmer{program: p, values: values, fetcher: fetcher, log: log, reports: account.NewServed(p.accountSettings(values), log)}
	w := warm.Warmer{Member: member, Log: log, Timing: warm.DefaultTiming()}
	var watch sync.WaitGroup
	watch.Go(func() { warm.Watch(ctx, &loader{warmer: member}, log) })
	w.Run(ctx)
	watch.Wait()
	return nil
}

// warmer is warm.Member.
type warmer struct {
	*program
	values  config.Values
	fetcher *pointer.Fetcher
	log     *slog.Logger
	reports *account.Served
}

// Serves goes by files in memory, and by a symlink that the kernel has there as well.
func (w *warmer) Serves() warm.Place {
	s, err := w.runDir.Read()
	if err != nil || s.State != status.Ready || s.Generation == 0 {
		return warm.Place{}
	}
	if locked, err := flock.Held(w.runDir.LockPath()); err != nil || locked {
		return warm.Place{}
	}
	target, err := os.Readlink(filepath.Join(s.MountPoint, "current"))
	if err != nil {
		return warm.Place{}
	}
	return warm.Place{VolumeID: s.VolumeID, Release: filepath.Base(target)}
}

func (w *warmer) Volume(ctx context.Context) (*release.Volume, string, error) {
	return w.readyVolume(ctx)
}

// healLimit is for all packs that are fetched. A large one may take its time; it is in nobody's
// way.
const healLimit = time.Hour

func (w *warmer) Heal(ctx context.Context, v *release.Volume, bad []release.Damage) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, healLimit)
	defer cancel()
	got, _, err := w.fetcher.Look(ctx, "")
	if err != nil {
		return 0, fmt.Errorf("read pointer %s: %w", w.fetcher.Place(), err)
	}
	believed, err := catchup.Believe(v, got.Document, w.values.List("trusted-keys"))
	if err != nil {
		return 0, err
	}
	const tries = 5
	return (&catchup.Volume{Volume: v, Packs: w.fetcher.Store, Tries: tries, Served: true}).Heal(ctx, believed, bad)
}

// Report writes it where this member reports: in the store, or as a tag of the volume. Nobody is
// told of a release whose programs have not succeeded.
func (w *warmer) Report(ctx context.Context, verified status.Verified) error {
	v, volumeID, err := w.readyVolume(ctx)
	if err != nil {
		return err
	}
	generation, id, err := v.Fence()
	done, doneErr := v.ProgramsDone()
	if err := errors.Join(err, doneErr, v.Close()); err != nil {
		return err
	}
	if !done || id != verified.Release || volumeID != verified.VolumeID {
		return warm.ErrNotYet
	}
	return w.reports.Verified(ctx, status.Reported{VolumeID: volumeID, Generation: generation, Release: id, Ready: true})
}

func (w *warmer) Tell(now status.Warm) error { return w.runDir.WriteWarm(now) }

// checkWarm says what came of reading the release.
func (p *program) checkWarm(values config.Values) doctor.Check {
	return doctor.Check{Name: "content", Do: func(context.Context) doctor.Finding {
		w, err := p.runDir.ReadWarm()
		switch {
		case err != nil:
			return doctor.Failed(advice.Try(err, "rm it"))
		case w != nil && w.Verified != nil && w.Verified.Bad > 0:
			v := w.Verified
			return doctor.Failure("replace this instance; ebs-release-agent verify names what is wrong",
				"%s; the first: %s", v, words.Printable(v.Named[0]))
		case values.Get("warm") == warmOff:
			return doctor.Fine("not read: warm is off")
		case w == nil:
			return doctor.Warning("systemctl status ebs-release-warm", "nothing was read in this boot")
		case w.Trouble != "":
			return doctor.Warned(advice.Parse(w.Trouble))
		case w.Verified != nil && w.Verified.Release == w.Release:
			return doctor.Fine("%s", w.Verified)
		}
		return doctor.Fine("read so far: %s", w.Says())
	}}
}

// warmRows are what `status` shows of it.
func warmRows(w *status.Warm) (rows [][]string) {
	if w == nil {
		return nil
	}
	rows = append(rows, []string{"read", w.Says()})
	if w.Verified != nil {
		rows = append(rows, []string{"verified", w.Verified.String()})
		for _, name := range w.Verified.Named {
			rows = append(rows, []string{"damaged", name})
		}
	}
	if w.Trouble != "" {
		rows = append(rows, []string{"reading", w.Trouble})
	}
	return rows
}
