package publish

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/fleet"
	"ebs-release/internal/pointer"
	"ebs-release/internal/report"
	"ebs-release/internal/words"
)

// Results of a publish, one per exit code.
const (
	ResultConverged    = "converged"
	ResultNotConverged = "not-converged" // committed, members are behind
	ResultUnchanged    = "unchanged"     // it failed before anything was visible
	ResultConflict     = "conflict"      // the lock is held, or the generation moved
	ResultNoSnapshot   = "no-snapshot"   // live, but the snapshot that was waited for is not there
	ResultPaused       = "paused"        // a rollout stands at its step, and waits for a person
	ResultInterrupted  = "interrupted"
	ResultFailed       = "failed"
)

// Outcome is how a publish ended. Its JSON is what `publish --output json` prints.
type Outcome struct {
	Schema       int         `json:"schema"`
	Result       string      `json:"result"`
	Error        string      `json:"error,omitempty"`
	Committed    bool        `json:"committed"`
	Generation   int64       `json:"generation"` // of the pointer, as it is now
	Release      string      `json:"release,omitempty"`
	Digest       string      `json:"digest,omitempty"`
	SnapshotID   string      `json:"snapshot_id,omitempty"`      // of this release, and named
	Pending      string      `json:"snapshot_pending,omitempty"` // of this release, made by EBS, and named by whoever comes next
	Files        int         `json:"files,omitempty"`            // of the release
	Bytes        int64       `json:"bytes,omitempty"`
	Packed       int64       `json:"packed_bytes,omitempty"` // of the packs that it put into the store
	Fetched      Fetched     `json:"fetched"`
	OnIt         int         `json:"on_it"` // members on the generation
	Total        int         `json:"total"`
	Launched     int         `json:"launched"`       // members launched during the publish
	LaunchedOnIt int         `json:"launched_on_it"` // of those, on the generation
	Gone         int         `json:"gone"`           // members that left the group during the publish, or are leaving it
	Milliseconds int64       `json:"milliseconds"`
	Live         int64       `json:"live_milliseconds,omitempty"`   // until no member was behind; 0: some were
	Frozen       int64       `json:"frozen_milliseconds,omitempty"` // how long writers to the release volume waited
	Mixed        *Window     `json:"mixed,omitempty"`               // how long members ran different releases, but for those that were late
	HookError    string      `json:"hook_error,omitempty"`          // of the programs after the publish
	Phases       []PhaseTime `json:"phases"`
	Members      []Member    `json:"members"`
}

// PhaseTime is how long a phase took.
type PhaseTime struct {
	Name         string `json:"name"` // P0
	Title        string `json:"title"`
	Milliseconds int64  `json:"milliseconds"`
}

// Member is a member in a report.
type Member struct {
	InstanceID     string           `json:"instance_id"`
	Group          string           `json:"group"`
	LifecycleState string           `json:"lifecycle_state"`
	Address        string           `json:"address"`
	VolumeID       string           `json:"volume_id"`
	Generation     int64            `json:"generation"`
	Release        string           `json:"release"`
	State          string           `json:"state"`              // what it reported: booting, ready, hook-failed; unknown: nothing yet
	Standing       Standing         `json:"standing"`           // towards the pointer
	Side           string           `json:"side,omitempty"`     // while there is a rollout: stable or new
	Verified       *report.Verified `json:"verified,omitempty"` // what came of reading all files of the release there
	Error          string           `json:"error,omitempty"`
	Cause          string           `json:"cause,omitempty"` // of the error, the same words for all members with the same trouble
	Hook           string           `json:"hook,omitempty"`  // what is wrong with a program that had to run after the activation
}

// The sides of a rollout.
const (
	SideStable = "stable"
	SideNew    = "new"
)

// View reports a listed member as it stands towards the pointer.
func View(listed fleet.Member, p pointer.Pointer) Member {
	m := &member{Member: listed, wanted: targetOf(p, listed)}
	v := m.view()
	if r := p.Rollout; r != nil {
		v.Side = SideStable
		if r.Includes(instanceOf(listed)) {
			v.Side = SideNew
		}
	}
	return v
}

func (m *member) view() Member {
	v := Member{
		InstanceID: m.InstanceID, Group: m.Group, LifecycleState: m.LifecycleState, Address: m.Address, VolumeID: m.VolumeID,
		Generation: m.Generation, Release: m.Release, State: m.State, Standing: m.standing(),
		Verified: m.Verified,
	}
	if odd := []Standing{StandsAhead, StandsOtherStore, StandsHookFailed}; slices.Contains(odd, v.Standing) ||
		v.Standing == StandsBehind && m.Ignored != "" {
		v.Error = m.reason()
	}
	if said, is := m.complains(); is && slices.Contains(openStandings, v.Standing) {
		v.Error, v.Cause = m.reason(), said.Why
	}
	if m.standing() != StandsCurrent && m.err != nil {
		v.Error, v.Cause = m.err.Error(), cause(m.err)
	}
	if m.hook != nil {
		v.Hook = words.OneLine(m.hook)
	}
	return v
}

// outcome is filled from what the run knows by now.
func (r *run) outcome(err error) Outcome {
	window := r.mixed()
	r.members.mu.Lock()
	defer r.members.mu.Unlock()
	o := Outcome{
		Schema: 1, Committed: r.committed, Generation: r.before.Generation, Release: r.before.Release, Digest: r.before.Digest,
		SnapshotID: r.before.Snapshots[r.Settings.Region], Packed: r.packed, Files: r.tree.Files, Bytes: r.tree.Bytes, Fetched: r.members.fetched,
		Milliseconds: time.Since(r.started).Milliseconds(), Live: r.live.Milliseconds(), Frozen: r.frozen.Milliseconds(),
		Pending: r.pending, Phases: r.times, Members: []Member{},
	}
	if r.committed {
		o.Generation, o.Release, o.Digest, o.SnapshotID = r.next.Generation, r.next.Release, r.next.Digest, r.next.Snapshots[r.Settings.Region]
		if r.next.SnapshotOf != nil { // another release's
			o.SnapshotID = ""
		}
	}
	if window.Members > 0 {
		o.Mixed = &window
	}
	if r.hookErr != nil {
		o.HookError = words.OneLine(r.hookErr)
	}
	now := r.now()
	now.Store = r.next.Store
	for _, m := range r.members.all {
		m.wanted = targetOf(now, m.Member)
		view := m.view()
		if m.VolumeID != "" && (m.active == m.VolumeID || m.hookFailedHere()) { // the tags were written after the listing
			view.Generation, view.Release = m.wanted.generation, m.wanted.release
		}
		o.Members = append(o.Members, view)
		switch {
		case m.standing() == StandsGone, m.standing() == StandsLeaving:
			o.Gone++
			continue
		case m.standing() == StandsCurrent:
			o.OnIt++
			if !m.first {
				o.LaunchedOnIt++
			}
		}
		o.Total++
		if !m.first {
			o.Launched++
		}
	}
	slices.SortFunc(o.Members, func(a, b Member) int { return strings.Compare(a.InstanceID, b.InstanceID) })
	o.Result = ResultConverged
	if err != nil {
		o.Error = words.OneLine(err)
		o.Result = ResultOf(exit.Code(err))
	}
	return o
}

// ResultOf is the result that goes with the exit code of a failure.
func ResultOf(code int) string {
	switch code {
	case exit.NotConverged:
		return ResultNotConverged
	case exit.Unchanged:
		return ResultUnchanged
	case exit.Conflict:
		return ResultConflict
	case exit.NoSnapshot:
		return ResultNoSnapshot
	case exit.RolledBack:
		return ResultRolledBack
	case exit.Paused:
		return ResultPaused
	case exit.Interrupted:
		return ResultInterrupted
	}
	return ResultFailed
}

// Sentence is the report in one line: "generation 42 is current: 54/54 members on it (1 gone); 3
// launched during the publish, all on generation 42".
func (o Outcome) Sentence() string {
	if o.Total == 0 {
		return fmt.Sprintf("generation %d is current: no members yet, instances that launch get it", o.Generation)
	}
	s := fmt.Sprintf("generation %d is current: %d/%d members on it", o.Generation, o.OnIt, o.Total)
	if o.Gone > 0 {
		s += fmt.Sprintf(" (%d gone)", o.Gone)
	}
	switch {
	case o.Launched == 0:
	case o.LaunchedOnIt == o.Launched:
		s += fmt.Sprintf("; %d launched during the publish, all on generation %d", o.Launched, o.Generation)
	default:
		s += fmt.Sprintf("; %d launched during the publish, %d of them on generation %d", o.Launched, o.LaunchedOnIt, o.Generation)
	}
	return s
}

// Details are the lines below the sentence: what was published, and how long it took.
func (o Outcome) Details() (lines []string) {
	what := "release " + o.Release
	if o.SnapshotID != "" {
		what += ", snapshot " + o.SnapshotID
	}
	lines = append(lines, what)
	if o.Pending != "" {
		lines = append(lines, pendingSentence(o.Pending))
	}
	if o.Files > 0 {
		line := fmt.Sprintf("%s, %s", words.Count(o.Files, "file"), words.Bytes(o.Bytes))
		if o.Fetched.Packs > 0 {
			line += fmt.Sprintf("; members fetched %s, %s", words.Count(o.Fetched.Packs, "pack"), words.Bytes(o.Fetched.Bytes))
		}
		lines = append(lines, line)
	}
	var phases []string
	for _, p := range o.Phases {
		if took := Took(p.Milliseconds); took != "" {
			phases = append(phases, p.Title+" "+took)
		}
	}
	took := "took " + seconds(o.Milliseconds)
	if o.Live > 0 && o.Total > 0 {
		took = "live after " + seconds(o.Live) + ", " + took
	}
	if len(phases) > 0 {
		took += ": " + strings.Join(phases, ", ")
	}
	return append(lines, took)
}

// pendingSentence says what becomes of a snapshot that nobody waits for.
func pendingSentence(id string) string {
	return fmt.Sprintf("EBS is making snapshot %s; publish, converge, gc or `ebs-release snapshot`, whichever comes next, names it", id)
}

// Took is how long a phase took, for a person. It is "" for one too short to explain anything.
func Took(milliseconds int64) string {
	if milliseconds < 100 {
		return ""
	}
	return seconds(milliseconds)
}

func seconds(milliseconds int64) string { return fmt.Sprintf("%.1fs", float64(milliseconds)/1000) }
