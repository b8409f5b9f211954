package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"ebs-release/internal/fleet"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/release"
	"ebs-release/internal/snapshot"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// inventory is what gc looks at, all of it taken under the publish lock: no publish of this store
// is running.
type inventory struct {
	now   time.Time
	grace time.Duration
	keep  int

	store     string // its id; "": it has none yet
	pointer   pointer.Pointer
	history   []pointer.Entry
	members   []fleet.Member
	volume    gc.Volume // the release volume
	snapshots []snapshot.Old
	orphans   []fleet.Orphan
	records   []gcItem
}

// look fills the inventory. Without all of it nothing is removed.
func (p *parts) look(ctx context.Context, s *inventory) (err error) {
	s.keep = p.Settings.Keep
	if s.pointer, err = p.store.Read(ctx); err != nil {
		return err
	}
	if s.history, err = p.store.History(ctx); err != nil {
		return err
	}
	if s.members, err = p.members.List(ctx); err != nil {
		return fmt.Errorf("list the members: %w", err)
	}
	if err = p.checks.releaseVolume(ctx); err != nil {
		return err
	}
	v, err := p.checks.volumes.Describe(ctx, p.maker.VolumeID)
	if err != nil {
		return err
	}
	if s.store, err = p.checks.storeOf(ctx, v.Tags[volume.TagStore]); err != nil {
		return err
	}
	if s.volume, err = with(p.volume, (*release.Volume).Inventory); err != nil {
		return err
	}
	if s.snapshots, err = p.maker.List(ctx); err != nil {
		return err
	}
	s.ownSnapshots()
	if s.orphans, err = fleet.Orphans(ctx, p.ec2); err != nil {
		return err
	}
	s.records, err = records(os.TempDir())
	return err
}

// plan says what is kept and what nobody needs, and why. It decides from the inventory alone.
func (s *inventory) plan() []gcItem {
	items := append(s.planTrees(), s.planSnapshots()...)
	for _, o := range s.orphans {
		why := "attached to nothing, and its instance " + o.InstanceID + " is gone"
		if o.Left {
			why = "attached to nothing, and its instance " + o.InstanceID + " has left it behind"
		}
		items = append(items, s.unlessYoung(gcItem{Kind: kindVolume, ID: o.VolumeID, Created: o.Created, Why: why}))
	}
	for _, r := range s.records {
		items = append(items, s.unlessYoung(r))
	}
	return items
}

// unlessYoung keeps what is younger than the grace.
func (s *inventory) unlessYoung(item gcItem) gcItem {
	if s.young(item.Created) {
		item.Kept = true
		item.Why += ", but younger than --grace"
	}
	return item
}

func (s *inventory) young(made time.Time) bool { return s.now.Sub(made) < s.grace }

func (s *inventory) planTrees() (items []gcItem) {
	held := map[string]string{s.pointer.Release: "the pointer names it"}
	for _, m := range s.members {
		if m.Release != "" {
			held[m.Release] = m.InstanceID + " is on it, and the next transfer to it builds on that"
		}
	}
	wanted := gc.Wanted{Keep: s.keep, Committed: gc.Releases(publish.Committed(s.history)), Held: held}
	for _, i := range wanted.Trees(s.volume) {
		item := gcItem{Kind: kindTree, ID: i.ID, Created: releaseTime(i.ID), Why: i.Why, Kept: i.Keep}
		if !item.Kept {
			item = s.unlessYoung(item)
		}
		items = append(items, item)
	}
	return items
}

func (s *inventory) planSnapshots() (items []gcItem) {
	facts := gc.Snapshots{Committed: publish.Committed(s.history), Booting: map[string]string{}, Keep: s.keep, Young: s.young}
	started := map[string]time.Time{}
	for _, old := range s.snapshots {
		started[old.ID] = old.Started
		facts.All = append(facts.All, gc.Snapshot{
			ID: old.ID, Generation: old.Generation, Release: old.Release, Started: old.Started, Usable: old.State == types.SnapshotStateCompleted,
		})
	}
	for _, id := range s.pointer.Snapshots {
		facts.Named = append(facts.Named, id)
	}
	for _, m := range s.members {
		if !volume.Serves(m.State) {
			facts.Booting[m.Release] = m.InstanceID + " boots from it"
		}
	}
	for _, i := range facts.Decide() {
		items = append(items, gcItem{Kind: kindSnapshot, ID: i.ID, Created: started[i.ID], Why: i.Why, Kept: i.Keep})
	}
	return items
}

// releaseTime is when a release was taken in: its id begins with that.
func releaseTime(id string) time.Time {
	stamp, _, _ := strings.Cut(id, "-")
	made, err := time.Parse("20060102T150405Z", stamp)
	if err != nil {
		return time.Time{} // not of this program's making; Releases gives none
	}
	return made
}

// recordsPattern are the private directories of ssh connections (push.Open): configuration, host
// key, socket.
const recordsPattern = "ebs-release-push-*"

func records(dir string) ([]gcItem, error) {
	names, err := filepath.Glob(filepath.Join(dir, recordsPattern))
	if err != nil {
		return nil, err
	}
	var items []gcItem
	for _, name := range names {
		info, err := os.Lstat(name)
		if err != nil || !info.IsDir() || !owned(info) {
			continue // gone, or somebody else's
		}
		items = append(items, gcItem{Kind: kindRecord, ID: name, Created: info.ModTime(), Why: "left by a publisher that was killed"})
	}
	return items, nil
}

// owned: it is this user's own.
func owned(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}
