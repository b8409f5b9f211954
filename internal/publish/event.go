package publish

import "time"

// Kinds of events.
const (
	KindPhase    = "phase"    // a phase starts; Text is its title
	KindDone     = "done"     // a phase ended without an error; Milliseconds is how long it took
	KindNote     = "note"     // something worth a line
	KindWarning  = "warning"  // something that does not stop the publish
	KindProgress = "progress" // Progress changed
	KindStaged   = "staged"   // Member has the release, verified, not yet active
	KindActive   = "active"   // Member has it active
	KindFailed   = "failed"   // a try on Member failed; Cause says why. Told once per member and cause; there are more tries
	KindHook     = "hook"     // Member is on the release, but a program in its activate.d failed
	KindWindow   = "window"   // the first wave of P5 is through; Window says how long members ran different releases
	KindRollout  = "rollout"  // something happened in a rollout: Rollout says what
	KindOutcome  = "outcome"  // the last event; Outcome says how it ended
)

// Event is something that happened during a publish. `--output ndjson` prints one JSON object a
// line, of this form, with "schema": 1:
//
//	{"schema":1,"time":"…","phase":"P5","kind":"failed","member":"i-…","cause":"its disk is full"}
//
// A reader skips kinds and fields that it does not know.
type Event struct {
	Schema   int       `json:"schema"` // 1
	Time     time.Time `json:"time"`
	Phase    string    `json:"phase"` // P0 to P7
	Kind     string    `json:"kind"`
	Text     string    `json:"text,omitempty"`   // for a person, one line or more
	Member   string    `json:"member,omitempty"` // instance id
	Cause    string    `json:"cause,omitempty"`  // the same words for all members that have the same trouble
	Progress *Progress `json:"progress,omitempty"`
	Window   *Window   `json:"window,omitempty"`
	Outcome  *Outcome  `json:"outcome,omitempty"`

	Rollout *RolloutEvent `json:"rollout,omitempty"`

	Milliseconds *int64 `json:"milliseconds,omitempty"` // KindDone only
}

// Progress counts members by where they stand in the phase.
type Progress struct {
	Done     int    `json:"done"`    // P3: have the tree; P5: are on the generation
	Working  int    `json:"working"` // being worked on now
	Waiting  int    `json:"waiting"` // their agent boots, or it is not their turn yet
	Failed   int    `json:"failed"`
	Gone     int    `json:"gone"`     // or leaving
	Total    int    `json:"total"`    // without those
	Snapshot string `json:"snapshot"` // P3, P6: EC2's own figure, "38%"
}

// Window is the time in which members ran different releases: from the first flip to the last one
// of P5's first wave, which activates on all that had the tree by then. Members that were behind
// for a reason of their own come later and are not in it.
type Window struct {
	Members      int   `json:"members"`
	Milliseconds int64 `json:"milliseconds"`

	first, last time.Time // from before the first request to after the last answer: the flips lie in between
}

func (w *Window) add(asked, answered time.Time) {
	if w.Members == 0 || asked.Before(w.first) {
		w.first = asked
	}
	if answered.After(w.last) {
		w.last = answered
	}
	w.Members++
	w.Milliseconds = w.last.Sub(w.first).Milliseconds()
}

func (r *run) say(e Event) { r.members.say(e) }
