package sweep

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"ebs-release/internal/fleet"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/report"
	"ebs-release/internal/snapshot"
	"ebs-release/internal/store"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// inventory is what there is. What is removed by it was all seen while no publish worked on the
// release volume. One by another server to the same store in S3 may be running: it works on another
// volume, and its packs are younger than a day.
type inventory struct {
	now   time.Time
	grace time.Duration
	keep  int

	since     time.Time // see Sweeper
	store     string    // its id; "": it has none yet
	pointer   pointer.Pointer
	history   []pointer.Entry
	members   []fleet.Member
	volume    gc.Volume // the release volume
	snapshots []snapshot.Old
	templates map[string]string // snapshots that launch templates name, and which version
	packs     []store.Item
	orphans   []fleet.Orphan
	records   []gc.Record
	reports   []store.Item
}

func (s Sweeper) look(ctx context.Context) (_ *inventory, err error) {
	i := &inventory{now: s.Began, grace: s.Grace, keep: s.Keep, since: s.Since}
	if i.pointer, err = s.Store.Read(ctx); err != nil {
		return nil, err
	}
	if i.history, err = s.Store.History(ctx); err != nil {
		return nil, err
	}
	if i.members, err = s.Members(ctx); err != nil {
		return nil, fmt.Errorf("list the members: %w", err)
	}
	if i.store, err = s.Owner(ctx); err != nil {
		return nil, err
	}
	if i.volume, err = s.Volume.Inventory(); err != nil {
		return nil, err
	}
	if i.snapshots, err = s.Snapshots.List(ctx); err != nil {
		return nil, err
	}
	i.ownSnapshots()
	if i.templates, err = s.Templates(ctx); err != nil {
		return nil, err
	}
	if i.packs, err = s.Store.Objects().List(ctx, pointer.PackPrefix, "", mostPacks); err != nil {
		return nil, err
	}
	if i.orphans, err = fleet.Orphans(ctx, s.EC2); err != nil {
		return nil, err
	}
	if s.Reports != nil {
		if i.reports, err = s.Reports.All(ctx); err != nil {
			return nil, err
		}
	}
	i.records, err = records(os.TempDir())
	return i, err
}

// plan says what is kept and what nobody needs, and why. It decides from the inventory alone.
func (s *inventory) plan() []gc.Planned {
	keep, committed := publish.Kept(s.keep, publish.Committed(s.history), s.pointer)
	facts := gc.Inventory{
		Now: s.now, Grace: s.grace, Keep: keep, Release: s.pointer.Release, Committed: committed,
		Named: slices.Collect(maps.Values(s.pointer.Snapshots)), Volume: s.volume, Records: s.records,
		Templates: s.templates,
	}
	for _, m := range s.members {
		facts.Members = append(facts.Members, gc.Member{
			InstanceID: m.InstanceID, Release: m.Release, Serves: volume.Serves(m.State), Reported: m.Reported,
		})
	}
	for _, old := range s.snapshots {
		facts.Snapshots = append(facts.Snapshots, gc.Snapshot{
			ID: old.ID, Generation: old.Generation, Release: old.Release, Started: old.Started,
			Unfit: old.Started.Before(s.since), Usable: old.State == types.SnapshotStateCompleted, Failed: old.State == types.SnapshotStateError,
		})
	}
	for _, o := range s.packs {
		listed := slices.ContainsFunc(s.pointer.Edges, func(e pointer.Edge) bool { return e.Pack == o.Key })
		facts.Packs = append(facts.Packs, gc.Pack{Key: o.Key, Made: o.Modified, Listed: listed})
	}
	for _, o := range s.orphans {
		facts.Orphans = append(facts.Orphans, gc.Orphan(o))
	}
	for _, o := range s.reports {
		of, _ := report.ParseKey(o.Key) // what is no report is nobody's
		facts.Reports = append(facts.Reports, gc.Report{Key: o.Key, InstanceID: of.InstanceID, Made: o.Modified})
	}
	return facts.Plan()
}

// mostPacks that are looked at: more are nobody's but a program's that went wrong.
const mostPacks = 100_000

// recordsPattern are the private directories of ssh connections (push.Open): configuration, host
// key, socket.
const recordsPattern = "ebs-release-push-*"

func records(dir string) ([]gc.Record, error) {
	names, err := filepath.Glob(filepath.Join(dir, recordsPattern))
	if err != nil {
		return nil, err
	}
	var found []gc.Record
	for _, name := range names {
		info, err := os.Lstat(name)
		if err != nil || !info.IsDir() || !owned(info) {
			continue // gone, or somebody else's
		}
		found = append(found, gc.Record{Path: name, Made: info.ModTime()})
	}
	return found, nil
}

// owned: it is this user's own.
func owned(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// ownSnapshots are those that gc may look at: of this store by their tag; and of those that have
// none, from before stores had ids, the ones that this store's history names.
func (s *inventory) ownSnapshots() {
	known := map[string]bool{}
	for _, e := range s.history {
		for _, id := range e.Snapshots {
			known[id] = true
		}
	}
	s.snapshots = slices.DeleteFunc(s.snapshots, func(o snapshot.Old) bool {
		if o.Store == "" {
			return !known[o.ID]
		}
		return o.Store != s.store
	})
}
