package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"ebs-release/internal/fleet"
	"ebs-release/internal/pointer"
	"ebs-release/internal/snapshot"
	"ebs-release/internal/volume"

	"github.com/aws/smithy-go"
)

// survey is what gc looks at, all of it taken under the publish lock: no publish of this store is running.
type survey struct {
	now   time.Time
	grace time.Duration
	keep  int

	pointer   pointer.Pointer
	history   []pointer.Entry
	members   []fleet.Member
	current   string   // on the release volume
	trees     []string // there, oldest first
	snapshots []snapshot.Old
	orphans   []fleet.Orphan
	records   []gcItem
}

// look fills the survey. Without all of it nothing is removed.
func (p *parts) look(ctx context.Context, s *survey) (err error) {
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
	if s.current, err = p.tree.Current(); err != nil {
		return err
	}
	if s.trees, err = p.tree.Releases(); err != nil {
		return err
	}
	if s.snapshots, err = p.maker.List(ctx); err != nil {
		return err
	}
	if s.orphans, err = fleet.Orphans(ctx, p.ec2); err != nil {
		return err
	}
	s.records, err = records(os.TempDir())
	return err
}

// plan says what nobody needs, and why. It decides from the survey alone.
func (s *survey) plan() []gcItem {
	items := []gcItem{}
	items = append(items, s.oldTrees()...)
	items = append(items, s.oldSnapshots()...)
	for _, o := range s.orphans {
		if s.young(o.Created) {
			continue
		}
		why := "attached to nothing, and its instance " + o.InstanceID + " is gone"
		if o.Left {
			why = "attached to nothing, and its instance " + o.InstanceID + " has left it behind"
		}
		items = append(items, gcItem{Kind: kindVolume, ID: o.VolumeID, Created: o.Created, Why: why})
	}
	for _, r := range s.records {
		if !s.young(r.Created) {
			items = append(items, r)
		}
	}
	return items
}

func (s *survey) young(made time.Time) bool { return s.now.Sub(made) < s.grace }

// oldTrees takes the oldest until keep are left.
func (s *survey) oldTrees() (items []gcItem) {
	needed := map[string]bool{s.current: true, s.pointer.Release: true}
	for _, m := range s.members {
		needed[m.Release] = true // the next transfer to it builds on that
	}
	left := len(s.trees)
	for _, id := range s.trees {
		made := releaseTime(id)
		if left <= s.keep {
			break
		}
		if needed[id] || s.young(made) {
			continue
		}
		left--
		items = append(items, gcItem{Kind: kindTree, ID: id, Created: made, Why: fmt.Sprintf("not current, no member is on it, and there are more than --keep %d", s.keep)})
	}
	return items
}

// treesBut are all trees but one.
func (s *survey) treesBut(id string) []string {
	return slices.DeleteFunc(slices.Clone(s.trees), func(other string) bool { return other == id })
}

// oldSnapshots spares the latest keep generations, and what the pointer or a member that boots may need.
func (s *survey) oldSnapshots() (items []gcItem) {
	needed := map[string]bool{}
	for _, id := range s.pointer.Snapshots {
		needed[id] = true
	}
	committed := map[string]bool{}
	first := s.pointer.Generation // that the history knows
	for _, e := range s.history {
		if !e.Committed || e.Verb == verbConverge {
			continue
		}
		first = min(first, e.Generation)
		for _, id := range e.Snapshots {
			committed[id] = true
		}
	}
	booting := map[string]bool{}
	for _, m := range s.members {
		if !volume.Serves(m.State) {
			booting[m.Release] = true
		}
	}
	kept := 0
	for _, old := range slices.Backward(s.snapshots) { // the latest first
		item := gcItem{Kind: kindSnapshot, ID: old.ID, Created: old.Started}
		// Before the first generation that the history knows, nothing tells what was committed: as if it was.
		lost := !committed[old.ID] && !needed[old.ID] && old.Generation >= first
		if !lost {
			kept++
		}
		switch {
		case needed[old.ID] || s.young(old.Started) || old.Release != "" && booting[old.Release]:
			continue
		case lost:
			item.Why = fmt.Sprintf("generation %d was never committed with it", old.Generation)
		case kept <= s.keep:
			continue
		default:
			item.Why = fmt.Sprintf("generation %d, release %s: the pointer does not name it, and there are more than --keep %d", old.Generation, old.Release, s.keep)
		}
		items = append(items, item)
	}
	slices.Reverse(items)
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

// recordsPattern are the private folders of ssh connections (push.Open): configuration, host key, socket.
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

func isNoVolume(err error) bool {
	var api smithy.APIError
	return errors.As(err, &api) && api.ErrorCode() == "InvalidVolume.NotFound"
}
