package publish

import (
	"context"
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
)

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
	moved   bool      // this run has moved the pointer: what is reported of its generation is new
	drives  bool      // this run drives the rollout of the pointer
	from    int64     // the revision with which it took that over from another one; 0: it did not
	limit   int64     // no true report is above it
	wanted  gc.Wanted // what members are to keep
	percent string    // of the snapshot
	fetched Fetched
	more    morePacks
	talk    sync.Mutex // one call of Talk at a time
}

// Fetched is what all members together fetched from the store.
type Fetched struct {
	Packs int   `json:"packs"`
	Bytes int64 `json:"bytes"`
}

func newMembers(p *Publisher) *members {
	return &members{
		Publisher: p,
		slots:     make(chan struct{}, max(1, p.Settings.Parallel)),
		more:      newMorePacks(),
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
	found, err := ms.Fleet.List(ctx)
	if err != nil {
		return fmt.Errorf("list the members: %w", err)
	}
	ignored, complain := ms.take(found, next)
	for _, e := range complain {
		ms.say(e)
	}
	for _, f := range ignored {
		ms.say(Event{Kind: KindWarning, Member: f.InstanceID,
			Text: fmt.Sprintf("%s: the tag %s of %s says %.40q, which no publish has made (highest known: %d); it counts as behind",
				f.InstanceID, volume.TagGeneration, f.VolumeID, f.Ignored, ms.limit-slack)})
	}
	return nil
}

// take makes a listing what is known, and returns the members whose tags are newly ignored, and
// what others say for the first time about why they are behind.
func (ms *members) take(found []fleet.Member, next pointer.Pointer) (ignored []fleet.Member, complain []Event) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	for _, m := range ms.all {
		m.gone = true
		m.want(targetOf(next, m.Member))
	}
	for _, f := range found {
		if f.Generation > ms.limit {
			f.Ignored, f.Generation = strconv.FormatInt(f.Generation, 10), 0
		}
		m := ms.all[f.InstanceID]
		if m == nil {
			m = &member{first: !ms.listed, seen: time.Now()}
			ms.all[f.InstanceID] = m
		}
		if m.Address != f.Address || m.HostKey != f.HostKey || m.VolumeID != f.VolumeID { // what was wrong may be fixed
			m.tries, m.again = 0, time.Time{}
		}
		if f.Ignored != "" && f.Ignored != m.Ignored {
			ignored = append(ignored, f)
		}
		m.Member, m.gone, m.from = f, false, ms.from
		m.want(targetOf(next, f))
		m.compare()
		if ms.Dialer == nil {
			m.follow(ms.moved)
		}
		if said, is := m.complains(); is && m.told != said.Why && slices.Contains(openStandings, m.standing()) {
			m.told = said.Why
			complain = append(complain, Event{Kind: KindFailed, Member: m.InstanceID, Cause: said.Why, Text: m.InstanceID + ": " + m.reason()})
		}
	}
	ms.listed = true
	return ignored, complain
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
		if aHas, bHas := a.hasTree(), b.hasTree(); aHas != bHas {
			if aHas {
				return -1
			}
			return 1
		}
		return strings.Compare(a.InstanceID, b.InstanceID)
	})
	return found
}

// open counts the members that are to be worked on, or waited for; also until a listing shows what
// was reported of them.
func (ms *members) open() (count int) {
	ways := append(slices.Clone(openStandings), StandsBooting)
	ms.mu.Lock()
	defer ms.mu.Unlock()
	for _, m := range ms.all {
		switch {
		case m.overwritten && !m.gone && !isLeaving(m.LifecycleState), slices.Contains(ways, m.standing()) && !m.hookFailedHere():
			count++
		}
	}
	return count
}

// due returns the members that stand in one of the ways and whose last failure is long enough ago.
func (ms *members) due(ways ...Standing) []*member {
	found := ms.having(ways...)
	ms.mu.Lock()
	defer ms.mu.Unlock()
	now := time.Now()
	return slices.DeleteFunc(found, func(m *member) bool { return now.Before(m.again) || m.hookFailedHere() })
}

// staged returns the members that have the tree and only need to be told to use it.
func (ms *members) staged() []*member {
	found := ms.due(append(slices.Clone(openStandings), StandsLeaving)...)
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return slices.DeleteFunc(found, func(m *member) bool { return !m.hasTree() })
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
		return m.standing() != StandsBehind || m.err != nil || m.hasTree()
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
