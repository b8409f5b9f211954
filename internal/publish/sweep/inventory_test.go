package sweep

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/fleet"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/snapshot"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// releaseOf is the release that was taken in on a day of January.
func releaseOf(day int) string { return fmt.Sprintf("202601%02dT000000Z-0000000000%02d", day, day) }

func dayOf(day int) time.Time { return time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC) }

// newInventory has generations 1 to 9, one a day; it is the tenth, and the pointer is back at
// generation 9 with the release of the third.
func newInventory() *inventory {
	s := &inventory{now: dayOf(10), grace: 36 * time.Hour, keep: 2, volume: gc.Volume{Current: releaseOf(3)}}
	for day := 1; day <= 9; day++ {
		id := fmt.Sprintf("snap-%d", day)
		s.volume.Releases = append(s.volume.Releases, releaseOf(day))
		s.snapshots = append(s.snapshots, snapshot.Old{ID: id, Generation: int64(day), Release: releaseOf(day), Started: dayOf(day), State: types.SnapshotStateCompleted})
		if day != 5 { // that publish was killed
			s.history = append(s.history, pointer.Entry{Committed: true, Generation: int64(day), Release: releaseOf(day), Snapshots: map[string]string{"r": id}})
		}
	}
	s.pointer = pointer.Pointer{Generation: 10, Release: releaseOf(3), Snapshots: map[string]string{"r": "snap-3"}}
	s.history = append(s.history, pointer.Entry{Committed: true, Generation: 10, Release: releaseOf(3), Snapshots: s.pointer.Snapshots})
	return s
}

// kinds are the ids of a kind in the plan, in short.
func kinds(items []gc.Planned, kind string) string {
	var ids []string
	for _, i := range items {
		if i.Kind == kind && !i.Keep {
			ids = append(ids, strings.TrimPrefix(i.ID, "snap-"))
		}
	}
	return strings.Join(ids, " ")
}

func TestGCKeepsWhatIsNeeded(t *testing.T) {
	s := newInventory()
	s.members = []fleet.Member{{InstanceID: "i-1", State: "ready", Release: releaseOf(1)}, {InstanceID: "i-2", State: "booting", Release: releaseOf(2)}, {InstanceID: "i-3", State: "unknown"}}
	s.keep = 4
	// Trees: those of the latest generations stay (10 is a rollback to 3; 9, 8, 7), and the
	// members' (1, 2); 5 was never committed.
	want := []string{releaseOf(6), releaseOf(4), releaseOf(5)}
	if got := kinds(s.plan(), gc.KindTree); got != strings.Join(want, " ") {
		t.Errorf("trees: %s", got)
	}
	// Snapshots: the same, but 1, of which a member that is ready needs none.
	if got := kinds(s.plan(), gc.KindSnapshot); got != "6 4 1 5" {
		t.Errorf("snapshots: %s", got)
	}
	s.keep = 100
	if got := kinds(s.plan(), gc.KindTree) + kinds(s.plan(), gc.KindSnapshot); got != "5" {
		t.Errorf("with room for all: %s", got)
	}
}

func TestGCLeavesTheYoungAlone(t *testing.T) {
	s := newInventory()
	s.orphans = []fleet.Orphan{{VolumeID: "vol-old", InstanceID: "i-9", Created: dayOf(8)}, {VolumeID: "vol-young", InstanceID: "i-8", Created: dayOf(9)}}
	s.records = []gc.Record{{Path: "/tmp/old", Made: dayOf(1)}, {Path: "/tmp/young", Made: dayOf(10)}}
	if got := kinds(s.plan(), gc.KindVolume) + " " + kinds(s.plan(), gc.KindRecord); got != "vol-old /tmp/old" {
		t.Errorf("%s", got)
	}
	s.grace = 1000 * time.Hour
	for _, item := range s.plan() {
		if !item.Keep || item.Why == "" {
			t.Errorf("%+v", item)
		}
	}
}

// Row 85: its instance may live on, and the words say so.
func TestGCRemovesAVolumeThatWasLeft(t *testing.T) {
	s := newInventory()
	s.members = []fleet.Member{{InstanceID: "i-9", State: "ready", Release: releaseOf(3)}}
	s.orphans = []fleet.Orphan{
		{VolumeID: "vol-left", InstanceID: "i-9", Created: dayOf(8), Left: true}, {VolumeID: "vol-young", InstanceID: "i-9", Created: dayOf(9), Left: true},
	}
	if got := kinds(s.plan(), gc.KindVolume); got != "vol-left" {
		t.Errorf("%s", got)
	}
	for _, item := range s.plan() {
		if item.Kind == gc.KindVolume && !strings.Contains(item.Why, "its instance i-9 has left it behind") {
			t.Errorf("%+v", item)
		}
	}
}

func TestGCWithoutAHistoryTakesNothingForUncommitted(t *testing.T) {
	s := newInventory()
	s.history = s.history[len(s.history)-1:] // it was bounded, or the store is older than this program
	s.keep = 3
	if got := kinds(s.plan(), gc.KindSnapshot); got != "7 6 5 4 2 1" { // the pointer's 3, 9 and 8 stay
		t.Errorf("%s", got)
	}
	for _, item := range s.plan() {
		if strings.Contains(item.Why, "never committed") {
			t.Errorf("%+v", item)
		}
	}
}

func TestGCLeavesSnapshotsOfOthersAlone(t *testing.T) {
	s := newInventory()
	s.store = "1111111111111111"
	for i := range s.snapshots {
		switch s.snapshots[i].ID {
		case "snap-1", "snap-5": // 1 was committed by this store, 5 by nobody; others say nothing
			s.snapshots[i].Store = s.store
		case "snap-2":
			s.snapshots[i].Store = "2222222222222222"
		}
	}
	s.snapshots = append(s.snapshots, snapshot.Old{ID: "snap-old", Generation: 9, Started: dayOf(1)}) // from before stores had ids, and nobody's
	s.ownSnapshots()
	var left []string
	for _, o := range s.snapshots {
		left = append(left, strings.TrimPrefix(o.ID, "snap-"))
	}
	if got := strings.Join(left, " "); got != "1 3 4 5 6 7 8 9" {
		t.Errorf("gc looks at %s", got)
	}
}

func TestGCFindsWhatAKilledPublisherLeft(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"ebs-release-push-1", "other"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc", filepath.Join(dir, "ebs-release-push-link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "ebs-release-push-other"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(dir, "ebs-release-push-other"), 12345, 12345); err != nil {
		t.Fatal(err)
	}
	found, err := records(dir)
	if err != nil || len(found) != 1 || filepath.Base(found[0].Path) != "ebs-release-push-1" {
		t.Errorf("%+v, %v", found, err)
	}
}
