package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"ebs-release/internal/fleet"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/volume"
	"ebs-release/internal/words"
)

// Standing is where a member stands towards the generation that is wanted.
type Standing string

// The standings, as reports have them.
const (
	StandsCurrent    Standing = "current"     // on generation and release of the pointer: its agent or this run said so
	StandsBehind     Standing = "behind"      // ready, on an older generation, or on this one with another release
	StandsAhead      Standing = "ahead"       // ready, on a higher generation: the pointer is an old one, or the report is wrong
	StandsOtherStore Standing = "other store" // its volume holds releases of another pointer store: its agent reads another pointer
	StandsHookFailed Standing = "hook failed" // on it, but a program of activate.d has not succeeded: it may serve the release before
	StandsBooting    Standing = "booting"     // its agent has not reported: it is waited for
	StandsFailed     Standing = "failed"      // behind, and the last try on it failed
	StandsLeaving    Standing = "leaving"     // not current, and on its way out of the group: worked on, not waited for
	StandsGone       Standing = "gone"        // not in the last listing
)

// openStandings are those of a member that P5 works on until it stands otherwise.
var openStandings = []Standing{StandsBehind, StandsHookFailed, StandsFailed}

// member is what this run knows of one member. Its fields are guarded by members.mu.
type member struct {
	fleet.Member        // as last listed
	wanted       target // to be on
	first        bool   // it was there when the run began
	gone         bool   // it is not in the last listing
	staged       string // the volume that has the tree
	active       string // the volume that this run has activated on, with all programs
	half         string // the volume that this run has activated on, but a program failed
	reported     bool   // that was written to the volume's tags
	session      Session
	dialed       string    // address and host key of the session
	busy         bool      // somebody works on it
	begun        bool      // that work has had its first slot: it is not stopped by the failures of others
	err          error     // of the last try
	told         string    // cause of a failure that was told last
	tries        int       // that failed in a row
	again        time.Time // when to try again
	hook         error     // of the program that failed after this run has activated on half
	slot         func()    // gives its slot back; nil when it has none. Used as session is
}

// target is what members shall be on: of the pointer, generation and release.
type target struct {
	generation int64
	release    string
	store      string // ""; a pointer from before stores had ids
}

func targetOf(p pointer.Pointer) target { return target{p.Generation, p.Release, p.Store} }

// standing goes by what this run has done, then by what the member reported. It compares for
// equality: a higher generation, or another release under the same one, is as little what the
// pointer names as an older one.
func (m *member) standing() Standing {
	serves, onIt := volume.Serves(m.State), m.Generation == m.wanted.generation && m.Release == m.wanted.release && m.Ignored == ""
	switch {
	case m.gone:
		return StandsGone
	case m.VolumeID != "" && m.active == m.VolumeID, !m.elsewhere() && onIt && m.State == volume.StateReady && !m.failedHere():
		return StandsCurrent
	case isLeaving(m.LifecycleState):
		return StandsLeaving
	case m.elsewhere():
		return StandsOtherStore
	case !serves:
		return StandsBooting
	case m.failedHere():
		return StandsHookFailed
	case m.err != nil && !passes(m.err):
		return StandsFailed
	case onIt:
		return StandsHookFailed
	case m.Generation > m.wanted.generation && m.Ignored == "":
		return StandsAhead
	}
	return StandsBehind
}

// elsewhere: two stores may count alike, so that generation and release say nothing.
func (m *member) elsewhere() bool {
	return m.Store != "" && m.wanted.store != "" && m.Store != m.wanted.store
}

// failedHere: this run has activated, and a program failed. It is not tried again: that is for the
// next run.
func (m *member) failedHere() bool { return m.VolumeID != "" && m.half == m.VolumeID }

// why names the member and the reason that it is behind, for a person.
func (m *member) why() string {
	if m.err != nil {
		return OneLine(m.named())
	}
	return m.InstanceID + ": " + m.reason()
}

// trouble is the member's last error, or, when it came through meanwhile, where it stands.
func (ms *members) trouble(m *member) error {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if m.err == nil {
		return errors.New(m.why())
	}
	return m.named()
}

// named is the error of the last try, with the member's name if it has none.
func (m *member) named() error {
	if strings.Contains(m.err.Error(), m.InstanceID) {
		return m.err
	}
	return fmt.Errorf("%s: %w", m.InstanceID, m.err)
}

func (m *member) reason() string {
	switch {
	case m.elsewhere():
		return fmt.Sprintf("its volume is of the pointer store %s, and this is %s", m.Store, m.wanted.store)
	case !volume.Serves(m.State):
		return "its agent has not reported ready, see `ebs-release-agent status` there"
	case m.busy:
		return "still being worked on"
	case m.hook != nil && m.failedHere():
		return OneLine(m.hook)
	case m.standing() == StandsHookFailed:
		return "a program of activate.d has not succeeded there"
	case m.Generation == m.wanted.generation:
		return fmt.Sprintf("on generation %d, but with release %q", m.Generation, m.Release)
	}
	return fmt.Sprintf("on generation %d", m.Generation)
}

// isLeaving: the lifecycle states of Auto Scaling in which an instance does not come back into
// service.
func isLeaving(state string) bool {
	return strings.HasPrefix(state, "Terminat") || strings.HasPrefix(state, "Detach")
}

// members are all members that this run has seen, and the work on them: at most Parallel at a time,
// never two on the same.
type members struct {
	*Publisher
	phase   string
	slots   chan struct{}
	workers sync.WaitGroup

	mu      sync.Mutex
	all     map[string]*member // by instance id
	listed  bool
	limit   int64     // no true report is above it
	wanted  gc.Wanted // what members are to keep
	percent string    // of the snapshot
	sent    Sent
	talk    sync.Mutex // one call of Talk at a time
}

// Sent is what went over the wire to all members together.
type Sent struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

func newMembers(p *Publisher) *members {
	return &members{
		Publisher: p,
		slots:     make(chan struct{}, max(1, p.Settings.Parallel)),
		all:       map[string]*member{},
	}
}

// enter begins a phase.
func (ms *members) enter(phase, title string) {
	ms.mu.Lock()
	ms.phase = phase
	ms.mu.Unlock()
	ms.say(Event{Kind: KindPhase, Text: title})
}

// slack is how far above all that pointer, history and release volume know a report may be and
// still be believed: the pointer may be an old copy, and the volume one of an older snapshot. It is
// bounded because who may tag a volume can write any number there: with 2^53-3 nobody could ever
// publish again.
const slack = 1000

// list asks who the members are, and where they stand towards what is wanted.
func (ms *members) list(ctx context.Context, next pointer.Pointer) error {
	wanted := targetOf(next)
	found, err := ms.Fleet.List(ctx)
	if err != nil {
		return fmt.Errorf("list the members: %w", err)
	}
	for _, f := range ms.take(found, wanted) {
		ms.say(Event{Kind: KindWarning, Member: f.InstanceID, Text: fmt.Sprintf("%s: the tag %s of %s says %.40q, which no publish has made (highest known: %d); it counts as behind",
			f.InstanceID, volume.TagGeneration, f.VolumeID, f.Ignored, ms.limit-slack)})
	}
	return nil
}

// take makes a listing what is known, and returns the members whose tags are newly ignored.
func (ms *members) take(found []fleet.Member, wanted target) (ignored []fleet.Member) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	for _, m := range ms.all {
		m.gone, m.wanted = true, wanted
	}
	for _, f := range found {
		if f.Generation > ms.limit {
			f.Ignored, f.Generation = strconv.FormatInt(f.Generation, 10), 0
		}
		m := ms.all[f.InstanceID]
		if m == nil {
			m = &member{first: !ms.listed}
			ms.all[f.InstanceID] = m
		}
		if m.Address != f.Address || m.HostKey != f.HostKey || m.VolumeID != f.VolumeID { // what was wrong may be fixed
			m.tries, m.again = 0, time.Time{}
		}
		if f.Ignored != "" && f.Ignored != m.Ignored {
			ignored = append(ignored, f)
		}
		m.Member, m.wanted, m.gone = f, wanted, false
	}
	ms.listed = true
	return ignored
}

// total counts the members, also those that leave.
func (ms *members) total() int {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return len(ms.all)
}

// highest returns the highest generation that a member reports.
func (ms *members) highest() (generation int64) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	for _, m := range ms.all {
		generation = max(generation, m.Generation)
	}
	return generation
}

// having returns the members that stand in one of the ways, sorted: those that have the tree
// already first, as they are quickest.
func (ms *members) having(ways ...Standing) []*member {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	var found []*member
	for _, m := range ms.all {
		if slices.Contains(ways, m.standing()) {
			found = append(found, m)
		}
	}
	slices.SortFunc(found, func(a, b *member) int {
		if aHas, bHas := a.staged == a.VolumeID, b.staged == b.VolumeID; aHas != bHas {
			if aHas {
				return -1
			}
			return 1
		}
		return strings.Compare(a.InstanceID, b.InstanceID)
	})
	return found
}

// open counts the members that are to be worked on, or waited for.
func (ms *members) open() int {
	found := ms.having(append(slices.Clone(openStandings), StandsBooting)...)
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return len(slices.DeleteFunc(found, (*member).failedHere))
}

// due returns the members that stand in one of the ways and whose last failure is long enough ago.
func (ms *members) due(ways ...Standing) []*member {
	found := ms.having(ways...)
	ms.mu.Lock()
	defer ms.mu.Unlock()
	now := time.Now()
	return slices.DeleteFunc(found, func(m *member) bool { return now.Before(m.again) || m.failedHere() })
}

// staged returns the members that have the tree and only need to be told to use it.
func (ms *members) staged() []*member {
	found := ms.due(append(slices.Clone(openStandings), StandsLeaving)...)
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return slices.DeleteFunc(found, func(m *member) bool { return m.VolumeID == "" || m.staged != m.VolumeID })
}

// failed returns those of some members that are still there and whose last try failed.
func (ms *members) failed(some []*member) (failed []*member) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	for _, m := range some {
		if m.standing() == StandsFailed {
			failed = append(failed, m)
		}
	}
	return failed
}

// staying returns those of some members that neither are gone nor leave their group, as last
// listed.
func (ms *members) staying(some []*member) []*member {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(some), func(m *member) bool { return m.gone || isLeaving(m.LifecycleState) })
}

// unstaged returns those of some members that are still to get the tree and did not fail.
func (ms *members) unstaged(some []*member) []*member {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(some), func(m *member) bool {
		return m.standing() != StandsBehind || m.err != nil || m.staged != "" && m.staged == m.VolumeID
	})
}

// forget what was wrong with some members.
func (ms *members) forget(some []*member) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	for _, m := range some {
		m.err, m.tries, m.again = nil, 0, time.Time{}
	}
}

// withError returns those of some members whose last try failed.
func (ms *members) withError(some []*member) []*member {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(some), func(m *member) bool { return m.err == nil })
}

// keep says what members are to keep from now on.
func (ms *members) keep(wanted gc.Wanted) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	ms.wanted = wanted
}

// releases returns those that the members hold, and who.
func (ms *members) releases() map[string]string {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	held := map[string]string{}
	for _, m := range ms.all {
		if !m.gone && m.Release != "" && m.active != m.VolumeID {
			held[m.Release] = m.InstanceID + " is on it"
		}
	}
	return held
}

// patience says how long each waits for the members that it works on.
type patience struct {
	most time.Duration // 0: until they are done
	// rest: one slow member must not hold up all others. Once half of them are through (and until
	// is closed, if there is one), what is still under way gets as long again as it took so far,
	// and this. 0: until they are done.
	rest  time.Duration
	until <-chan struct{}
}

// each works on some members, and returns when all of them are done or patience ends; what is under
// way then goes on. A member that is being worked on already is left alone. The end of ctx ends the
// work.
func (ms *members) each(ctx context.Context, some []*member, wait patience, work func(context.Context, *member) error) {
	start := time.Now()
	done := make(chan error, len(some))
	begun, through, ended := 0, 0, 0
	for _, m := range some {
		ms.mu.Lock()
		skip := m.busy
		m.busy = true
		m.begun = m.begun && skip
		ms.mu.Unlock()
		if skip {
			continue
		}
		begun++
		ms.workers.Go(func() { done <- ms.one(ctx, m, work) })
	}
	var most, late <-chan time.Time
	queued := false // some had no slot yet when late came last
	if wait.most > 0 {
		most = time.After(wait.most)
	}
	for ended < begun {
		ms.say(Event{Kind: KindProgress, Progress: ms.progress()})
		if late == nil && wait.rest > 0 && wait.until == nil && 2*through >= begun {
			late = time.After(time.Since(start) + wait.rest)
		}
		select {
		case err := <-done:
			ended++
			if err == nil {
				through++
			}
		case <-wait.until:
			wait.until = nil
		case <-most:
			return
		case <-late:
			before := queued
			if queued = ms.queued(some); !queued && !before {
				return
			}
			late = time.After(wait.rest) // the slots were held by members that hang: the rest is not slow
		}
	}
	ms.say(Event{Kind: KindProgress, Progress: ms.progress()})
}

// queued says that somebody has not had a slot yet.
func (ms *members) queued(some []*member) bool {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return slices.ContainsFunc(some, func(m *member) bool { return m.busy && !m.begun })
}

func (ms *members) one(ctx context.Context, m *member, work func(context.Context, *member) error) (err error) {
	err = work(ctx, m)
	slot := m.slot // note frees the member for another worker
	m.slot = nil
	ms.note(ctx, m, err)
	if slot != nil {
		slot() // only now: who takes it next must know of the failure
	}
	return err
}

// slotTime is how long a step may keep its slot. Who takes longer goes on without one, so that
// members which hang, as many as there are slots, do not keep the others waiting until they time
// out.
const slotTime = 5 * time.Second

// takeSlot waits for one of the Parallel slots. Only what costs this machine something takes one: a
// login and a transfer; an activation is one line over an open connection. It is given back between
// two tries.
func (ms *members) takeSlot(ctx context.Context, m *member) error {
	m.giveSlotBack()
	select {
	case ms.slots <- struct{}{}:
	case <-ctx.Done():
		return errNotBegun
	}
	free := sync.OnceFunc(func() { <-ms.slots })
	if err := ms.begin(m); err != nil {
		free()
		return err
	}
	late := time.AfterFunc(slotTime, free)
	m.slot = func() { late.Stop(); free() }
	return nil
}

func (m *member) giveSlotBack() {
	if m.slot != nil {
		m.slot()
		m.slot = nil
	}
}

// begin is an error when too many others have failed for this member to be begun.
func (ms *members) begin(m *member) error {
	ms.mu.Lock()
	begun := m.begun
	ms.mu.Unlock()
	if !begun {
		if err := ms.tooMany(); err != nil {
			return err
		}
	}
	ms.mu.Lock()
	m.begun = true
	ms.mu.Unlock()
	return nil
}

// wait returns when nobody is worked on.
func (ms *members) wait() { ms.workers.Wait() }

// close ends all connections, side by side: a far side that hangs takes its time.
func (ms *members) close() {
	ms.wait()
	for _, m := range ms.all {
		ms.workers.Go(func() { ms.hangUp(m) })
	}
	ms.wait()
}

// report writes the new generation to the tags of the volumes that this run has activated it on.
// Where a program failed the tags say so: whoever looks next knows it, and does not take the member
// for current.
func (ms *members) report(ctx context.Context, next pointer.Pointer) error {
	ms.mu.Lock()
	todo := map[string][]*member{} // by the state to write
	for _, m := range ms.all {
		switch {
		case m.gone || m.reported || m.VolumeID == "":
		case m.failedHere():
			todo[volume.StateHookFailed] = append(todo[volume.StateHookFailed], m)
		case m.active == m.VolumeID && m.State == volume.StateHookFailed:
			todo[volume.StateReady] = append(todo[volume.StateReady], m)
		case m.active == m.VolumeID:
			todo[""] = append(todo[""], m)
		}
	}
	ms.mu.Unlock()
	var errs []error
	for state, some := range todo {
		var volumes []string
		for _, m := range some {
			volumes = append(volumes, m.VolumeID)
		}
		slices.Sort(volumes)
		if err := ms.Fleet.Report(ctx, volumes, next.Generation, next.Release, state); err != nil {
			errs = append(errs, err)
			continue
		}
		ms.mu.Lock()
		for _, m := range some {
			m.reported = true
		}
		ms.mu.Unlock()
	}
	return errors.Join(errs...)
}

// progress counts. During P3 a member is done when it has the tree, otherwise when it is on the
// generation.
func (ms *members) progress() *Progress {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	p := &Progress{Snapshot: ms.percent}
	for _, m := range ms.all {
		stands := m.standing()
		if stands == StandsGone || stands == StandsLeaving {
			p.Gone++
			continue
		}
		p.Total++
		switch {
		case ms.phase == "P3" && m.staged != "" && m.staged == m.VolumeID, ms.phase != "P3" && stands == StandsCurrent:
			p.Done++
		case m.busy:
			p.Working++
		case stands == StandsFailed:
			p.Failed++
		default:
			p.Waiting++
		}
	}
	return p
}

func (ms *members) count() string {
	p := ms.progress()
	if p.Total == 0 {
		return "no members"
	}
	booting := len(ms.having(StandsBooting))
	if booting == 0 {
		return words.Count(p.Total, "member")
	}
	return fmt.Sprintf("%s, %d of them booting", words.Count(p.Total, "member"), booting)
}

func (ms *members) snapshotProgress(percent string) {
	ms.mu.Lock()
	ms.percent = percent
	ms.mu.Unlock()
	ms.say(Event{Kind: KindProgress, Progress: ms.progress()})
}

func (ms *members) say(e Event) {
	if ms.Talk == nil {
		return
	}
	ms.talk.Lock()
	defer ms.talk.Unlock()
	ms.mu.Lock()
	e.Schema, e.Time, e.Phase = 1, time.Now().UTC(), ms.phase
	ms.mu.Unlock()
	ms.Talk(e)
}
