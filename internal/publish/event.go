package publish

// Kinds of events.
const (
	KindPhase    = "phase"    // a phase starts; Text is its title
	KindNote     = "note"     // something worth a line
	KindWarning  = "warning"  // something that does not stop the publish
	KindProgress = "progress" // Progress changed
)

// Event is something that happened during a publish.
type Event struct {
	Phase    string    `json:"phase"` // P0 to P6
	Kind     string    `json:"kind"`
	Text     string    `json:"text,omitempty"`
	Progress *Progress `json:"progress,omitempty"`
}

// Progress counts members by where they stand in the phase.
type Progress struct {
	Done     int    `json:"done"`    // P3: have the tree; P5: are on the generation
	Working  int    `json:"working"` // being worked on now
	Waiting  int    `json:"waiting"` // their agent boots, or it is not their turn yet
	Failed   int    `json:"failed"`
	Gone     int    `json:"gone"`     // or leaving
	Total    int    `json:"total"`    // without those
	Snapshot string `json:"snapshot"` // P3: EC2's own figure, "38%"
}

func (r *run) say(e Event) { r.members.say(e) }
