package main

import (
	"context"
	"time"

	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/release"
	"ebs-release/internal/snapshot"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// snapshots is publish.Snapshots. P0 tells the maker the volume, or check does.
type snapshots struct {
	maker  *snapshot.Maker
	volume *releaseVolume
	since  time.Time                   // see server.Ring
	check  func(context.Context) error // before the first call, where P0 did not; nil: it did
}

// ready does what P0 of a converge does not, as its members come first.
func (s *snapshots) ready(ctx context.Context) error {
	if s.check == nil {
		return nil
	}
	err := s.check(ctx)
	if err == nil {
		s.check = nil
	}
	return err
}

func (s *snapshots) Create(ctx context.Context, r publish.SnapshotRequest) (string, time.Duration, error) {
	if err := s.ready(ctx); err != nil {
		return "", 0, err
	}
	made, err := s.maker.Create(ctx, snapshot.Request{
		Generation: r.Holds.Generation, Release: r.Holds.Release, Digest: r.Holds.Digest,
		Committed: r.Committed, Patient: r.Patient, Frozen: r.Frozen, Note: r.Note,
	})
	return made.ID, made.Frozen, err
}

func (s *snapshots) WaitCompleted(ctx context.Context, id string, progress func(string)) error {
	return s.maker.WaitCompleted(ctx, id, progress)
}

func (s *snapshots) Delete(ctx context.Context, id string) error { return s.maker.Delete(ctx, id) }

// List is publish.Snapshots's: those that whoever boots from them could go on from, by the keys of
// now.
func (s *snapshots) List(ctx context.Context) ([]publish.Snapshot, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	since, err := keysSince(s.volume, s.since)
	if err != nil {
		return nil, err
	}
	all, err := s.maker.List(ctx)
	if err != nil {
		return nil, err
	}
	var ours []publish.Snapshot
	for _, o := range all {
		if o.Store == "" || o.Store != s.maker.Store || o.Started.Before(since) {
			continue
		}
		ours = append(ours, publish.Snapshot{
			ID: o.ID, Holds: pointer.Held{Generation: o.Generation, Release: o.Release, Digest: o.Digest},
			Completed: o.State == types.SnapshotStateCompleted, Pending: o.State == types.SnapshotStatePending,
		})
	}
	return ours, nil
}

// keysSince is when the keys of now were made: those that sign, and the one of the packs.
func keysSince(v *releaseVolume, signing time.Time) (time.Time, error) {
	packs, err := with(v, (*release.Volume).PackKeySince)
	if packs.After(signing) {
		return packs, err
	}
	return signing, err
}
