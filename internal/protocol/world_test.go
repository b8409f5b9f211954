package protocol

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/boot"
	"ebs-release/internal/fleet"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/push"
	"ebs-release/internal/status"
	"ebs-release/internal/volume"
)

const (
	region = "eu-central-1"
	settle = 400 * time.Millisecond
	lag    = settle - 100*time.Millisecond
)

// world is what actors share: the pointer store, the account and the machines.
type world struct {
	s      *scheduler
	mutant string // what is broken on purpose
	seed   uint64 // of the publishers' jitter

	// The assumptions of a scenario.
	late        bool // a listing may show what was up to lag ago, and leave out a member that had not reported then
	unlocked    bool // the lock of the pointer store does not hold
	mayFail     bool // a publisher may fail, as it is killed or interrupted
	back        bool // somebody restores an older pointer: a member that holds a newer generation does not boot on it
	servers     int  // publishers in all
	reboots     bool // there are reboots
	losses      int  // this many volumes end in error
	packs       bool // the pointer lists ways from each release to its own
	leaves      bool // with packs: a publisher leaves its snapshot to whoever comes next
	programs    bool // the programs of an activation are a step of their own
	failing     int  // so often they fail
	nobodyDials bool // members follow the pointer
	together    bool // two verbs work on one release volume: what they do there are steps
	rolls       bool // there are rollouts
	drains      bool // there is a drain.d on members
	grain       grain

	pointer   pointer.Pointer
	commits   []int64
	holder    string // of the lock
	history   []pointer.Entry
	snapshots map[string]image
	listed    []publish.Snapshot // that publishers have made, as EC2 shows them
	boxes     []*box
	passed    int64              // the revision at which a driver has last seen all members on their targets
	given     map[string][]image // what the pointer has ever given each machine
	said      int64              // the highest generation that a publisher has said all members are on
	ends      []string
	bad       []string
	volumes   int
	rooms     []*server // of the release servers
}

// grain is how coarse the steps of a scenario are. The scenarios of two actors have all of them;
// those of more would take too long.
type grain int

const (
	fine   grain = iota
	medium       // a machine that is not ready is listed without its volume, `up` ends as it opens the gate, and P5 waits for work on members
	coarse       // and a member that has not reported is never listed, `up` begins as it resolves, attaching comes at once after that, activation is one step, and P5 has time for one round
)

// deadline gives P5 time for two rounds that find a member behind (the second comes after 500 ms)
// and for those two that find none: more rounds only say the same again.
func (g grain) deadline() time.Duration {
	if g >= coarse {
		return settle + 50*time.Millisecond
	}
	return 500*time.Millisecond + settle + 50*time.Millisecond
}

// image is the content of a release volume: what is current, and at which generation.
type image struct {
	generation int64
	release    string
}

// disk is a volume.
type disk struct {
	image
	id, snapshot        string
	trees               map[string]bool
	done                int64 // the generation whose programs have succeeded on it
	fence               int64 // the highest generation it ever had
	attached, protected bool
	well                int64 // the highest generation of those
	drained, out        bool  // by its mark, drain.d has run since the programs did; and by what was done to it
	came, served, unfit bool  // EC2 attached it with the launch; an agent has placed it; it is of another store
	tags                boot.Report
}

// box is a machine.
type box struct {
	id       string
	member   bool
	life     int // counts reboots
	ups      int // counts runs of `up`
	running  *actor
	locked   bool // an `up` goes on
	ready    bool // status.json says so
	open     bool // the gate
	mounted  *disk
	disks    []*disk
	top      int64 // the highest generation it ever served
	views    []view
	follower *actor
	follows  int           // counts runs of it
	held     bool          // it has the volume open
	verbs    []*verb       // that have it open, too
	begun    int           // counts those
	programs *verb         // has the lock of the programs
	memory   status.Follow // what it has told last
	sure     int64         // the revision at which the real driver has said that a step is over that had it
	told     time.Time     // when it first reported; zero: never
	pools    bool          // its group has a warm pool
	pooled   bool          // it is in there: not in service, and not listed
}

// view is how an exact listing shows a machine, since when. Without an instance id: not at all.
type view struct {
	fleet.Member
	since time.Time
}

// newWorld has generation 1 published.
func newWorld() *world {
	return &world{
		s:         newScheduler(),
		pointer:   pointer.Pointer{Schema: 1, Generation: 1, Release: "r1", Digest: "d1", Snapshots: map[string]string{region: "snap-1"}},
		snapshots: map[string]image{"snap-1": {1, "r1"}},
		given:     map[string][]image{},
	}
}

// add has a machine that is not launched yet.
func (w *world) add(id string) *box {
	b := &box{id: id}
	w.boxes = append(w.boxes, b)
	w.given[id] = []image{w.target(b)}
	b.views = []view{{}}
	return b
}

// serving adds a member that has been serving generation 1 for long.
func (w *world) serving(id string) *box {
	b := w.add(id)
	v := w.newDisk(b, "snap-1")
	v.attached, v.protected = true, true
	v.tags = boot.Report{Ready: true, Generation: 1, Release: "r1", HostKey: "key " + id}
	v.done = 1
	b.member, b.ready, b.open, b.mounted = true, true, true, v
	b.told = w.s.started.Add(-time.Hour)
	b.views = []view{{Member: w.show(b)}}
	return b
}

func (w *world) newDisk(b *box, snapshot string) *disk {
	content := w.snapshots[snapshot]
	v := &disk{image: content, id: fmt.Sprintf("vol-%s%d", b.id, len(b.disks)+w.volumes), snapshot: snapshot, trees: map[string]bool{content.release: true}}
	w.volumes++
	b.disks = append(b.disks, v)
	return v
}

// serves is the generation that an application on the machine reads; 0 when the gate is shut or
// nothing is mounted.
func (b *box) serves() int64 {
	if !b.open || b.mounted == nil {
		return 0
	}
	return b.mounted.generation
}

// show is what fleet.List makes of the machine: its attached volume of the highest generation
// speaks.
func (w *world) show(b *box) fleet.Member {
	if !b.member || w.grain >= coarse && b.told.IsZero() {
		return fleet.Member{}
	}
	m := fleet.Member{InstanceID: b.id, Group: "web", LifecycleState: "InService", Address: "address of " + b.id, State: fleet.StateUnknown}
	for _, v := range b.disks {
		if !v.attached || (w.grain >= medium || v.came) && !v.tags.Ready || m.VolumeID != "" && m.Generation >= v.tags.Generation {
			continue
		}
		m.VolumeID, m.Generation, m.Release, m.HostKey, m.State = v.id, v.tags.Generation, v.tags.Release, v.tags.HostKey, volume.StateBooting
		if v.tags.Ready {
			m.State = volume.StateReady
		}
		if v.tags.Ready && v.tags.Pending {
			m.State = volume.StateHookFailed
		}
	}
	return m
}

// shown are the ways in which a listing may show the machine now.
func (w *world) shown(b *box) []fleet.Member {
	last := b.views[len(b.views)-1]
	if !w.late || w.pointer.Generation == 1 {
		return []fleet.Member{last.Member}
	}
	from := time.Now().Add(-lag)
	ways := []fleet.Member{last.Member}
	for i, v := range b.views[:len(b.views)-1] {
		// Of those in which it boots one is enough: a publisher waits for it.
		if b.views[i+1].since.After(from) && (v.State == volume.StateReady || last.State == volume.StateReady) {
			ways = append(ways, v.Member)
		}
	}
	if b.told.IsZero() || b.told.After(from) {
		ways = append(ways, fleet.Member{})
	}
	var different []fleet.Member
	for _, m := range ways {
		if !slices.Contains(different, m) {
			different = append(different, m)
		}
	}
	return different
}

// listings is how many different listings there could be now; listing is one of them.
func (w *world) listings() int {
	n := 1
	for _, b := range w.boxes {
		n *= len(w.shown(b))
	}
	return n
}

func (w *world) listing(way int) (members []fleet.Member) {
	for _, b := range w.boxes {
		ways := w.shown(b)
		if m := ways[way%len(ways)]; m.InstanceID != "" {
			members = append(members, m)
		}
		way /= len(ways)
	}
	return members
}

// flip activates a release on what is mounted: as release.Volume.Activate does, which TestFence
// holds it to.
func (w *world) flip(b *box, release string, generation int64) error {
	if b.mounted == nil || !b.mounted.trees[release] {
		return errEmpty
	}
	err := b.mounted.activate(release, generation, w.mutant == noFence)
	if err == nil && !w.programs {
		b.mounted.done = generation
	}
	return err
}

func (i *image) activate(release string, generation int64, anyway bool) error {
	if !anyway && (i.generation > generation || i.generation == generation && i.release != release) {
		return push.ErrFenced
	}
	i.generation, i.release = generation, release
	return nil
}

func (w *world) scheduler() *scheduler { return w.s }

// shared is all of the state that is not inside an actor.
func (w *world) shared() string {
	var s strings.Builder
	fmt.Fprint(&s, w.pointer.Generation, w.pointer.Release, w.pointer.Snapshots, w.commits, w.holder, w.snapshots, w.history, w.listed, w.pointer.SnapshotOf, w.said, w.ends, w.volumes, w.losses, w.failing)
	if w.together {
		for _, r := range w.rooms {
			fmt.Fprint(&s, "\n", r.content, r.publishing)
		}
	}
	if w.rolls {
		fmt.Fprint(&s, w.pointer.Revision, share(w.pointer), w.passed)
		for _, b := range w.boxes {
			fmt.Fprint(&s, b.sure)
		}
	}
	for _, b := range w.boxes {
		fmt.Fprint(&s, "\n", b.id, b.member, b.life, b.ups, b.locked, b.ready, b.open, b.top, b.mounted != nil)
		if b.mounted != nil {
			fmt.Fprint(&s, b.mounted.id)
		}
		for _, v := range b.disks {
			fmt.Fprint(&s, *v)
		}
		if b.pools {
			fmt.Fprint(&s, b.pooled)
		}
		if w.drains {
			fmt.Fprint(&s, b.begun, len(b.verbs), b.programs != nil)
			if b.programs != nil {
				fmt.Fprint(&s, b.programs.a.name)
			}
		}
		if b.follower != nil {
			fmt.Fprint(&s, b.follows, b.held, b.memory)
		}
		if w.late {
			fmt.Fprint(&s, w.shown(b), b.told.Sub(w.s.started), time.Since(b.views[len(b.views)-1].since))
		}
	}
	return s.String()
}
