package gc

import (
	"time"

	"ebs-release/internal/manifest"
	"ebs-release/internal/words"
)

// Kinds of what is removed.
const (
	KindTree     = "tree"     // a release on the release volume
	KindSnapshot = "snapshot" // of the release volume
	KindVolume   = "volume"   // of a member that is gone
	KindPack     = "pack"     // in the store
	KindRecord   = "record"   // of a connection to a member, left by a publisher that was killed
	KindReports  = "reports"  // of members, in a store in S3: all that go are one item
)

// Inventory is all that a release server decides by: what there is, and who holds what.
type Inventory struct {
	Now   time.Time
	Grace time.Duration // what is younger stays
	Keep  int

	Release   string            // that the pointer names
	Named     []string          // snapshots that it names
	Templates map[string]string // see Snapshots
	Committed []Generation
	Members   []Member

	Volume    Volume
	Snapshots []Snapshot
	Packs     []Pack
	Orphans   []Orphan
	Records   []Record
	Reports   []Report
}

// Pack is a pack in the store.
type Pack struct {
	Key    string
	Made   time.Time
	Listed bool // by the pointer
}

// packGrace is the least time that a pack stays which no pointer lists, from when it was made: a
// publish may be about to list it. A member that has read a pointer which listed it, and does not
// find it, asks for the pointer again.
const packGrace = 24 * time.Hour

// Report is an object that a member has written.
type Report struct {
	Key, InstanceID string // InstanceID is "" where the name is that of no report
	Made            time.Time
}

// reportGrace is the least time that a report stays which does not speak for a member: EC2 may not
// list the member, or its volume, yet.
const reportGrace = 24 * time.Hour

// Member is an instance, and the release that it is on or boots.
type Member struct {
	InstanceID, Release string
	Serves              bool
	Reported            string // the key of the report that speaks for it; "": tags do, or nothing does yet
}

// Orphan is the volume of a member that is attached to nothing.
type Orphan struct {
	VolumeID   string
	InstanceID string
	Created    time.Time
	Left       bool // by its instance, which may live on
}

// Record is a directory with what a connection needed.
type Record struct {
	Path string
	Made time.Time
}

// Planned is an Item of a release server.
type Planned struct {
	Item
	Kind    string
	Created time.Time
	Keys    []string // of the objects that are KindReports
}

// Plan says what is kept and what nobody needs, and why.
func (v Inventory) Plan() []Planned {
	plan := append(v.trees(), v.snapshots()...)
	for _, o := range v.Orphans {
		fate := " is gone"
		if o.Left {
			fate = " has left it behind"
		}
		plan = append(plan, v.unlessYoung(Planned{
			Item{ID: o.VolumeID, Why: "attached to nothing, and its instance " + o.InstanceID + fate}, KindVolume, o.Created, nil,
		}))
	}
	for _, k := range v.Packs {
		item := Item{ID: k.Key, Why: "the pointer does not list it"}
		switch {
		case k.Listed:
			item.Keep, item.Why = true, "the pointer lists it"
		case v.Now.Sub(k.Made) < packGrace:
			item.Keep, item.Why = true, item.Why+", but younger than a day"
		}
		plan = append(plan, v.unlessYoung(Planned{item, KindPack, k.Made, nil}))
	}
	for _, r := range v.Records {
		plan = append(plan, v.unlessYoung(Planned{Item{ID: r.Path, Why: "left by a publisher that was killed"}, KindRecord, r.Made, nil}))
	}
	return append(plan, v.reports()...)
}

// reports are the ones that speak for nobody: of members that are gone, and what the others said
// before. Of a member for which none speaks all stay.
func (v Inventory) reports() []Planned {
	speaks := map[string]string{} // by instance
	for _, m := range v.Members {
		speaks[m.InstanceID] = m.Reported
	}
	var old Planned
	for _, r := range v.Reports {
		newest, lives := speaks[r.InstanceID]
		if lives && (newest == "" || newest == r.Key) || v.Now.Sub(r.Made) < reportGrace || v.young(r.Made) {
			continue
		}
		if old.Keys = append(old.Keys, r.Key); old.Created.IsZero() || r.Made.Before(old.Created) {
			old.Created = r.Made
		}
	}
	if len(old.Keys) == 0 {
		return nil
	}
	old.Kind, old.ID = KindReports, words.Count(len(old.Keys), "object")
	old.Why = "their members are gone, or have reported since"
	return []Planned{old}
}

// unlessYoung keeps what would go and is younger than the grace.
func (v Inventory) unlessYoung(p Planned) Planned {
	if !p.Keep && v.young(p.Created) {
		p.Keep = true
		p.Why += ", but younger than --grace"
	}
	return p
}

func (v Inventory) young(made time.Time) bool { return v.Now.Sub(made) < v.Grace }

func (v Inventory) trees() (plan []Planned) {
	held := map[string]string{v.Release: "the pointer names it"}
	for _, m := range v.Members {
		if m.Release != "" {
			held[m.Release] = m.InstanceID + " is on it, and the next pack for it starts from that"
		}
	}
	for _, i := range (Wanted{Keep: v.Keep, Committed: Releases(v.Committed), Held: held}).Trees(v.Volume) {
		plan = append(plan, v.unlessYoung(Planned{i, KindTree, releaseTime(i.ID), nil}))
	}
	return plan
}

func (v Inventory) snapshots() (plan []Planned) {
	facts := Snapshots{
		All: v.Snapshots, Committed: v.Committed, Named: v.Named, Booting: map[string]string{}, Templates: v.Templates,
		Keep: v.Keep, Young: v.young,
	}
	started := map[string]time.Time{}
	for _, s := range v.Snapshots {
		started[s.ID] = s.Started
	}
	for _, m := range v.Members {
		if !m.Serves {
			facts.Booting[m.Release] = m.InstanceID + " boots from it"
		}
	}
	for _, i := range facts.Decide() {
		plan = append(plan, Planned{i, KindSnapshot, started[i.ID], nil})
	}
	return plan
}

// releaseTime is when a release was taken in. One that is not of this program's making is the
// oldest of all.
func releaseTime(id string) time.Time {
	made, _ := manifest.IDTime(id) // else zero
	return made
}
