package account

import (
	"context"
	"log/slog"
	"time"

	"ebs-release/internal/boot"
	"ebs-release/internal/report"
	"ebs-release/internal/status"
	"ebs-release/internal/trouble"
	"ebs-release/internal/volume"
)

// servedLimit is for one report; whoever makes it tries again later.
const servedLimit = time.Minute

// Served reports while a release is served: of a follower, and of who reads all files. It asks who
// this is when it has something to say.
type Served struct {
	settings Settings
	log      *slog.Logger
	account  *Account // nil: nothing was reported yet
}

// NewServed returns one that asks nobody before it reports.
func NewServed(s Settings, log *slog.Logger) *Served { return &Served{settings: s, log: log} }

func (s *Served) do(ctx context.Context, report func(ctx context.Context, a *Account) error) error {
	ctx, cancel := context.WithTimeout(ctx, servedLimit)
	defer cancel()
	if s.account == nil {
		a := New(s.settings, s.log)
		if _, err := a.Identify(ctx); err != nil {
			return err
		}
		s.account = a
	}
	return report(ctx, s.account)
}

// Report says what is served now.
func (s *Served) Report(ctx context.Context, r status.Reported) error {
	return s.do(ctx, func(ctx context.Context, a *Account) error { return a.Report(ctx, a.served(r.VolumeID), ofServed(r)) })
}

// Complain says why this member is not where it is to be, beside what it has reported. The tag is a
// call of its own: a role from before it was there refuses it, and must not refuse a report.
func (s *Served) Complain(ctx context.Context, r status.Reported, t trouble.Trouble) error {
	return s.do(ctx, func(ctx context.Context, a *Account) error {
		if a.InS3() {
			return a.reportToStore(ctx, a.served(r.VolumeID), ofServed(r), t)
		}
		return a.tagMore(ctx, a.served(r.VolumeID), map[string]string{volume.TagTrouble: t.Tag()})
	})
}

// Verified adds to what was reported that all files were read, and leaves what follow has told.
func (s *Served) Verified(ctx context.Context, r status.Reported) error {
	return s.do(ctx, func(ctx context.Context, a *Account) error {
		if a.InS3() {
			return a.reportToStore(ctx, a.served(r.VolumeID), ofServed(r), a.told())
		}
		said := a.verified(r.VolumeID, r.Release)
		if said == nil {
			return nil
		}
		return a.tagMore(ctx, a.served(r.VolumeID), map[string]string{volume.TagVerified: said.Tag(r.Release)})
	})
}

func ofServed(r status.Reported) boot.Report {
	return boot.Report{Ready: true, Pending: !r.Ready, Generation: r.Generation, Release: r.Release}
}

// tagMore adds to a report by tags, where that is.
func (a *Account) tagMore(ctx context.Context, v boot.Volume, tags map[string]string) error {
	if v.Brought {
		return a.tagInstance(ctx, v, tags)
	}
	return a.volumes.Tag(ctx, v.ID, tags)
}

// served is the volume that is served, by what the boot has left.
func (a *Account) served(id string) boot.Volume {
	s, err := a.settings.RunDir.Read()
	return boot.Volume{ID: id, Brought: err == nil && s.Brought && s.VolumeID == id}
}

// told is the trouble that follow has told the publisher.
func (a *Account) told() trouble.Trouble {
	if seen, err := a.settings.RunDir.ReadFollow(); err == nil && seen != nil {
		return seen.Told
	}
	return trouble.Trouble{}
}

// verified is what was found when all of a release was read; nil: that was not yet.
func (a *Account) verified(volumeID, id string) *report.Verified {
	w, err := a.settings.RunDir.ReadWarm()
	if err != nil || w == nil || w.Verified == nil || w.Verified.VolumeID != volumeID || w.Verified.Release != id {
		return nil
	}
	v := w.Verified
	return &report.Verified{When: v.When, Files: v.Files, Bytes: v.Bytes, Bad: v.Bad, Healed: v.Healed}
}
