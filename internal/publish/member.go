package publish

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"ebs-release/internal/fleet"
	"ebs-release/internal/pointer"
	"ebs-release/internal/trouble"
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
	StandsWarmed     Standing = "warmed"      // in the warm pool of its group: it serves nothing, and is no member
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
	staged       tree   // that was fetched
	active       string // the volume that this run has activated on, with all programs
	hookFailedOn string // the volume that this run has activated on, but a program failed
	reported     bool   // that was written to the volume's tags
	overwritten  bool   // and yet the last listing shows something else
	session      Session
	dialed       string    // address and host key of the session
	busy         bool      // somebody works on it
	begun        bool      // that work has had its first slot: it is not stopped by the failures of others
	err          error     // of the last try
	told         string    // cause of a failure that was told last
	tries        int       // that failed in a row
	again        time.Time // when to try again
	no           tree      // that stage.d has refused, as it said over ssh
	hook         error     // of the program that failed after this run has activated on hookFailedOn
	follows      bool      // nobody dials it
	from         int64     // what its programs said by an earlier revision of the pointer is over
	seen         time.Time // in a listing, for the first time
	unhealthy    bool      // as last asked, during a rollout
	counted      bool      // it counts for the step, as last looked at
	met          bool      // it has counted for one
	slot         func()    // gives its slot back; nil when it has none. Used as session is
}

// target is what members shall be on: of the pointer, generation and release.
type target struct {
	generation int64
	release    string
	store      string // ""; a pointer from before stores had ids
}

// targetOf is what a member shall be on.
func targetOf(p pointer.Pointer, m fleet.Member) target {
	p = p.For(instanceOf(m))
	return target{p.Generation, p.Release, p.Store}
}

func instanceOf(m fleet.Member) pointer.Instance {
	return pointer.Instance{ID: m.InstanceID, Zone: m.AvailabilityZone}
}

// tree is a release on a member's volume.
type tree struct{ volume, release string }

// hasTree says whether the member has fetched what it shall be on.
func (m *member) hasTree() bool {
	return m.VolumeID != "" && m.staged == tree{m.VolumeID, m.wanted.release}
}

// want sets what the member shall be on. What this run has activated there was something else then.
func (m *member) want(wanted target) {
	if m.wanted != wanted {
		m.wanted = wanted
		m.active, m.hookFailedOn, m.reported, m.hook = "", "", false, nil
	}
}

// standing goes by what this run has done, then by what the member reported. It compares for
// equality: a higher generation, or another release under the same one, is as little what the
// pointer names as an older one.
func (m *member) standing() Standing {
	serves, onIt := volume.Serves(m.State), m.Generation == m.wanted.generation && m.Release == m.wanted.release && m.Ignored == ""
	switch {
	case m.gone:
		return StandsGone
	case m.Warmed():
		return StandsWarmed
	case m.VolumeID != "" && m.active == m.VolumeID, !m.elsewhere() && onIt && m.State == volume.StateReady && !m.hookFailedHere():
		return StandsCurrent
	case isLeaving(m.LifecycleState):
		return StandsLeaving
	case m.elsewhere():
		return StandsOtherStore
	case !serves:
		return StandsBooting
	case m.hookFailedHere():
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

// compare looks whether a listing shows what this run has reported. It does not where a publish
// that this one has overtaken was late with its own report, or where the listing is older.
func (m *member) compare() {
	here := m.VolumeID != "" && (m.active == m.VolumeID || m.hookFailedHere())
	m.overwritten = here && m.reported && (m.Generation != m.wanted.generation || m.Release != m.wanted.release)
	if m.overwritten {
		m.reported = false
	}
}

// elsewhere: two stores may count alike, so that generation and release say nothing.
func (m *member) elsewhere() bool {
	return m.Store != "" && m.wanted.store != "" && m.Store != m.wanted.store
}

// hookFailedHere: this run has activated, and a program failed. It is not tried again: that is for
// the next run.
func (m *member) hookFailedHere() bool { return m.VolumeID != "" && m.hookFailedOn == m.VolumeID }

// follow takes what a member says that follows. Where it is told that a program failed on the
// generation that this run has published, the run is over for it, as if it had activated itself.
func (m *member) follow(moved bool) {
	m.follows, m.hookFailedOn = true, ""
	said, _ := m.complains()
	if moved && m.standing() == StandsHookFailed && said.Revision >= m.from {
		m.hookFailedOn = m.VolumeID
	}
}

// complains is what the member itself says about why it is not on what it is to be on.
func (m *member) complains() (said trouble.Trouble, is bool) {
	return m.Trouble, m.Trouble.Why != "" && m.Trouble.Generation == m.wanted.generation && !m.elsewhere()
}

// fails: its programs have failed on the release, as far as this run has asked for them.
func (m *member) fails() bool {
	return m.standing() == StandsHookFailed && (m.from == 0 || m.hookFailedHere())
}

// refuses: a program of stage.d there says no to the release. Another try is not what it needs.
func (m *member) refuses() bool {
	said, is := m.complains()
	return is && said.Refused && said.Revision >= m.from || m.VolumeID != "" && m.no == tree{m.VolumeID, m.wanted.release}
}

// why names the member and the reason that it is behind, for a person.
func (m *member) why() string {
	if m.err != nil {
		return words.OneLine(m.named())
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
	said, complains := m.complains()
	switch {
	case m.elsewhere():
		return fmt.Sprintf("its volume is of the pointer store %s, and this is %s", m.Store, m.wanted.store)
	case !volume.Serves(m.State):
		return "its agent has not reported ready, see `ebs-release-agent status` there"
	case m.busy:
		return "still being worked on"
	case m.hook != nil && m.hookFailedHere():
		return words.OneLine(m.hook)
	case m.standing() == StandsHookFailed:
		if complains {
			return said.Why
		}
		return "a program of activate.d has not succeeded there"
	case complains && said.Refused:
		return "it refuses the release: " + said.Why
	case complains:
		return said.Why
	case m.Generation == m.wanted.generation:
		return fmt.Sprintf("on generation %d, but with release %q", m.Generation, m.Release)
	case m.follows:
		return fmt.Sprintf("on generation %d; it has to follow by itself: there, look at `ebs-release-agent status`, "+
			"and `systemctl enable --now ebs-release-follow.service`", m.Generation)
	}
	return fmt.Sprintf("on generation %d", m.Generation)
}

// isLeaving: the lifecycle states of Auto Scaling in which an instance does not come back into
// service.
func isLeaving(state string) bool {
	return strings.HasPrefix(state, "Terminat") || strings.HasPrefix(state, "Detach")
}
