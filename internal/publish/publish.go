// Package publish is one publish, from a directory to a group of machines that all have it.
//
// A release is live as soon as its pack is in the store and the pointer names it: whoever boots
// makes a volume from the newest snapshot that there is and catches up by packs. The snapshot of
// the release itself is asked for after that, and nobody waits for it: whoever comes next names it
// in the pointer (name.go). Only where no packs lead to a release (the first publish of all, the
// first after keys were made or changed) the commit waits for the snapshot.
//
// READ SECOND (after internal/boot). The protocol is the list in phases, and each phase is a method
// of run: P0 in check.go, P1, P3 and P4 in make.go, P2 in snapshot.go, P5 and P7 in converge.go, P6
// in later.go. What is done to one member is in work.go. A rollout begins in rollout.go (P4) and is
// driven in drive.go (P5). The parts that all of this works with are the small interfaces below: no
// AWS, no ssh, no system call here. publisher/parts.go puts the real ones behind them.
//
// Why no instance serves a stale release unnoticed: an agent reports (by tags, or by an object in
// the store), then re-reads the pointer, then opens the gate, for which its application waits; the
// publisher moves the pointer, then lists. An agent that re-reads after the commit sees the new
// generation. One that re-read before it was a member before the first listing of P5, and P5 cannot
// end without it. (The gate of a rollout is another thing: a command that is asked, see Asks.)
package publish

import (
	"context"
	"fmt"
	"slices"
	"time"

	"ebs-release/internal/catchup"
	"ebs-release/internal/exit"
	"ebs-release/internal/fleet"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/push"
	"ebs-release/internal/release"
)

// Publisher has the parts that a publish works with.
type Publisher struct {
	Checks    []Check // what P0 tries, in order, beyond what it needs itself
	Store     Store
	Tree      Tree
	Packs     Packs
	Keys      []string // who signs the pointer, as the release volume has it
	Snapshots Snapshots
	Fleet     Fleet
	Dialer    Dialer    // nil: nobody is dialed, the members follow the pointer by themselves
	Hooks     Hooks     // nil: none
	Health    Health    // of a rollout's members; nil: who is current is healthy
	Asks      Asks      // of a rollout; nil: nobody is asked, or told
	Templates Templates // nil: there are none
	Claim     Claim     // nil: nobody else works on the volume, and its store has no id
	Settings  Settings
	// Insist is closed by the second signal: the operator wants an end at once. The first signal
	// ends ctx, and with it a publish that has not committed. After the commit the publish goes on
	// to bring the members to the generation, as nobody else would. nil: there is no second signal.
	Insist <-chan struct{}
	Talk   func(Event) // told what happens, one call at a time; nil: silence

	// Jitter returns the random part of a pause between tries: from 0 up to, but not, what it is
	// given. nil: random; a model check has one that it can repeat.
	Jitter func(below time.Duration) time.Duration
}

// Settings of a publish. All durations must be above zero.
type Settings struct {
	Who              string         // for the lock and the pointer: user@host
	Message          string         // for the pointer; may be empty
	Region           string         // of the snapshot
	Keep             int            // releases to keep on the release volume
	Parallel         int            // members worked on at the same time
	MemberTimeout    time.Duration  // for one step (connect, stage, activate) on one member
	Snapshot         AfterSnapshot  // what P6 does once it has asked for one, if it does
	SnapshotDeadline time.Duration  // for the snapshot to be completed
	ConvergeDeadline time.Duration  // for P5
	Settle           time.Duration  // how far apart the last two listings of P5 are at least
	OpenFiles        uint64         // how many this process may have open at most; 0: any number
	MaxFailures      MaxFailures    // how many members may fail before no new one is begun
	IfGeneration     *int64         // go on only if the pointer is at this generation; nil: wherever it is
	Force            bool           // go on although no member at all can be reached, or takes the release; a rollback always does
	Steps            []pointer.Step // of a rollout; none: every member gets the release at once
	Terms            pointer.Terms  // of that
	Above            int64          // a generation that was published, when pointer and release volume are older copies; 0: none
}

// Check is something that could fail later and is therefore tried first. It changes nothing.
type Check struct {
	Name string
	Do   func(context.Context) error
}

// Claim makes the release volume this store's, if it is nobody's, and keeps other publishes out of
// it until unlock. It returns the id of the store.
type Claim func(ctx context.Context) (store string, unlock func() error, err error)

// Store holds the pointer.
type Store interface {
	Lock(ctx context.Context, who string) (unlock func() error, err error) // pointer.ErrLocked
	Read(ctx context.Context) (pointer.Pointer, error)                     // zero when nothing is published
	Document(ctx context.Context) ([]byte, error)                          // the pointer as it lies there, signed
	History(ctx context.Context) ([]pointer.Entry, error)                  // what was committed is what is kept
	CompareAndSwap(ctx context.Context, from, to pointer.Pointer) error    // pointer.ErrConflict, ErrUnclear
	Asked(ctx context.Context, generation int64, region, id string) error  // into the history: this snapshot counts
}

// Tree is the release volume on this machine.
type Tree interface {
	Current() (id string, err error) // "" when there is none
	Generation() (int64, error)
	ManifestDigest(id string) (string, error)
	Ingest(ctx context.Context, source string, now time.Time, wanted gc.Wanted) (release.Ingested, error)
	Untouched(ctx context.Context, id string) error // a release is what its manifest says, whoever edited it
	Activate(ctx context.Context, id, digest string, generation int64) error
	CheckActive(id string, generation int64) error // it is the current release, under this generation
	Prune(ctx context.Context, wanted gc.Wanted) (removed []string, err error)
	// CatchUp makes the pointer's release be there, by packs of the store, beside what is current.
	// It is not activated. catchup.ErrNoWay, ErrGone, ErrStore: it cannot.
	CatchUp(ctx context.Context, to pointer.Pointer, wanted gc.Wanted) (catchup.Way, error)
	// LockPublish keeps other publishes out of the volume, as Claim does. It does not wait.
	LockPublish() (unlock func() error, err error)
}

// Packs lie in the store beside the pointer.
type Packs interface {
	// Make puts what leads from one release on the release volume to another one there into the
	// store, and reads it back.
	Make(ctx context.Context, from, to string) (pointer.Edge, error)
}

// Snapshots of the release volume.
type Snapshots interface {
	// Create freezes, snapshots and thaws. frozen is how long writers waited. After an error there
	// is no snapshot.
	Create(ctx context.Context, r SnapshotRequest) (id string, frozen time.Duration, err error)
	WaitCompleted(ctx context.Context, id string, progress func(percent string)) error
	Delete(ctx context.Context, id string) error
	// List returns those of this volume that this store's publishes made, and whose keys are those
	// of now: what else there is, nobody could go on from.
	List(ctx context.Context) ([]Snapshot, error)
}

// Snapshot is one of the release volume, as EC2 and its tags say.
type Snapshot struct {
	ID        string
	Holds     pointer.Held // zero values: its tags do not say
	Completed bool
	Pending   bool // with neither it failed
}

// Fleet knows the members.
type Fleet interface {
	List(ctx context.Context) ([]fleet.Member, error)
	// Report tags members (Tagged) with what is active there, and with a state; "": the one that they
	// have.
	Report(ctx context.Context, tagged []string, generation int64, release, state string) error
}

// Dialer opens the one connection to a member. ctx is for opening it only: the session lasts until
// Close.
type Dialer interface {
	Dial(ctx context.Context, member fleet.Member) (Session, error)
}

// Session is a connection to one member. Errors: push.ErrNotReady while its agent boots,
// push.ErrFenced when it holds a higher generation, *push.NoWayError when no pack leads on from
// what it holds.
type Session interface {
	Stage(ctx context.Context, to push.Desired) (push.Fetched, error)
	Activate(ctx context.Context, to push.Desired) error
	Close() error
}

// Hooks are the programs of the release server's operator around a publish.
type Hooks interface {
	// Before is the last step of P0. An error stops the publish.
	Before(ctx context.Context, source string, next pointer.Pointer) error
	// Verify comes when the release is on the release volume and its pack in the store, before any
	// member has it. An error stops the publish. A rollback does not ask.
	Verify(ctx context.Context, next pointer.Pointer) error
	// After comes once the generation is committed, whatever came of it. An error is reported.
	After(ctx context.Context, o Outcome) error
}

// Templates are launch templates by which EC2 brings a volume of a snapshot to what launches.
type Templates interface {
	// Follow makes them name the snapshot that the pointer names, by what now says before and after
	// each change. say is told what was done, and what is wrong and stops nothing.
	Follow(ctx context.Context, now func(context.Context) (pointer.Pointer, error), say func(wrong bool, text string)) error
}

// phase is one of P0 to P7.
type phase struct {
	name, title string
	do          func(*run, context.Context) error
}

// phases of a publish, in the order that makes it safe.
func phases() []phase {
	return []phase{
		{"P0", "check", (*run).checkAndHook},
		{"P1", "ingest", (*run).ingest},
		{"P2", "pack", (*run).pack},
		{"P3", "stage", (*run).verifyAndStage},
		{"P4", "commit", (*run).commit},
		{"P5", "converge", (*run).converge},
		{"P6", "snapshot", (*run).snapshotLater},
		{"P7", "report", (*run).report},
	}
}

// phasesOfRollout of a publish that gives the release to a share of the members first: P4 begins
// the rollout, and P5 has its steps (drive.go) before what every publish has.
func phasesOfRollout() []phase {
	all := phases()
	commit := slices.IndexFunc(all, func(p phase) bool { return p.title == "commit" })
	all[commit].do = (*run).begin
	return slices.Insert(all, commit+1, phase{"P5", "rollout", (*run).roll})
}

// Publish makes source the current release of every member. The error carries the exit code; the
// outcome is filled as far as it got.
func (p *Publisher) Publish(ctx context.Context, source string) (Outcome, error) {
	if len(p.Settings.Steps) > 0 {
		return newRun(p, source).do(ctx, phasesOfRollout())
	}
	return newRun(p, source).do(ctx, phases())
}

// Converge brings every member to the generation that the pointer names, and makes up for the
// snapshot that nobody asked for: P5 and P6.
func (p *Publisher) Converge(ctx context.Context) (Outcome, error) {
	return newRun(p, "").do(ctx, []phase{
		{"P0", "check", (*run).checkConverge},
		{"P5", "converge", (*run).converge},
		{"P6", "snapshot", (*run).snapshotIfNone},
		{"P7", "report", (*run).report},
	})
}

// run is one publish under way.
type run struct {
	*Publisher
	source  string
	force   bool // Settings.Force, and every rollback
	started time.Time

	unlock    []func() error  // P0: the store; P1: the volume
	looks     bool            // it is a preview: the release volume stays as it is
	converges bool            // P0 of a converge
	before    pointer.Pointer // P0: what the pointer was
	past      []pointer.Entry // P0: the history until then
	next      pointer.Pointer // P0 and on: what it becomes; from P4 on what it is

	tree      release.Ingested // P1
	here      bool             // P2 or P4: the release is current on the release volume
	asked     bool             // P2: P3 waits until the snapshot is completed
	pending   string           // P6: the snapshot that EBS makes, and whoever comes next names
	packed    int64            // P2: bytes of the packs that it made
	frozen    time.Duration    // P2 or P6
	pruned    bool             // P6 or P7
	committed bool             // P4
	begun     bool             // P4: the pointer carries this run's rollout, or has
	goesBack  bool             // a hold and an open rollout do not keep it from being committed
	unclaimed bool             // the release volume could not be had after a rollout
	telling   chan struct{}    // closed when the programs have heard the last event of the rollout
	ended     error            // what is said in the end of a rollout that went back
	live      time.Duration    // P5: since the run began
	window    *Window          // P5; guarded by members.mu
	undo      []undo           // P1, P2: what to take back when it fails before the commit; latest last
	times     []PhaseTime
	hooked    bool  // the programs after the publish have run
	hookErr   error // of them

	members *members
	outer   context.Context    // ends with the first signal
	stop    context.CancelFunc // ends all work on members
}

// undo takes one effect back.
type undo struct {
	what string
	do   func(context.Context) error
}

func newRun(p *Publisher, source string) *run {
	return &run{Publisher: p, source: source, force: p.Settings.Force, started: time.Now(), members: newMembers(p)}
}

// endWork ends what is under way on members, and returns when it has ended.
func (r *run) endWork() {
	r.stop()
	r.members.wait()
}

// do goes through the phases, cleans up, and gives the error its exit code.
func (r *run) do(outer context.Context, phases []phase) (Outcome, error) {
	outer = release.TellWaits(outer, func(lock string) {
		r.say(Event{Kind: KindNote, Text: "waits for " + lock + ", which another process holds (fuser -v names it)"})
	})
	ctx, stop := context.WithCancel(outer)
	defer stop()
	r.outer, r.stop = outer, stop
	var err error
	afterCommit := false
	for _, ph := range phases {
		if r.moved() && !afterCommit {
			afterCommit = true
			var end context.CancelFunc
			ctx, end = r.untilInsisted(outer)
			defer end()
			r.stop = func() { stop(); end() }
			defer context.AfterFunc(outer, r.sayItGoesOn)()
		}
		r.members.enter(ph.name, ph.title)
		start := time.Now()
		err = ph.do(r, ctx)
		took := time.Since(start).Milliseconds()
		r.times = append(r.times, PhaseTime{ph.name, ph.title, took})
		if err != nil {
			err = fmt.Errorf("%s (%s): %w", ph.title, ph.name, err)
			break
		}
		r.say(Event{Kind: KindDone, Milliseconds: &took})
		if ph.title == "converge" { // the members are live: nobody waits for EBS
			r.hookAfter(outer, r.ended)
		}
	}
	switch {
	case err == nil:
		err = r.ended
	case r.ended != nil:
		err = exit.With(exit.Code(err), fmt.Errorf("%w; and then: %w", r.ended, err))
	}
	r.snapshotAnyway(outer, err)
	r.followTemplates(outer)
	interrupted := outer.Err()
	if r.moved() {
		interrupted = r.insisted()
	}
	r.endWork()
	if err != nil {
		err = r.code(interrupted, err, r.takeBack(outer))
	}
	r.members.close()
	r.hookAfter(outer, err)
	r.giveBack() // first: a program that hangs must not keep a rollback out
	if r.telling != nil {
		<-r.telling
	}
	o := r.outcome(err)
	r.say(Event{Kind: KindOutcome, Outcome: &o})
	return o, err
}

// giveBack lets other publishes go on.
func (r *run) giveBack() {
	for _, unlock := range slices.Backward(r.unlock) {
		if err := unlock(); err != nil {
			r.say(Event{Kind: KindWarning, Text: fmt.Sprintf("unlock: %v", err)})
		}
	}
	r.unlock = nil
}

// now is the pointer as this run knows it.
func (r *run) now() pointer.Pointer {
	if r.committed || r.begun {
		return r.next
	}
	return r.before
}

// moved says that this run has moved the pointer.
func (r *run) moved() bool { return r.committed && r.before.Generation != r.next.Generation }
