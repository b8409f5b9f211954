package publish

import (
	"fmt"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/pointer"
	"ebs-release/internal/words"
)

// Lag is how far the snapshot that a pointer names is behind its release.
type Lag struct {
	Generation int64     `json:"generation"` // that the snapshot holds
	Steps      int       `json:"steps"`      // packs that an instance needs when it launches
	Since      time.Time `json:"since"`      // when the first generation that is not in it was committed
}

// mostLag is how many packs are fine: at 48 a pack is made anew from the snapshot's release, which
// is larger each time.
const mostLag = 32

// LagOf is that of a pointer, by the history; nil: its snapshot holds its release.
func LagOf(p pointer.Pointer, past []pointer.Entry) *Lag {
	if p.Generation == 0 || p.SnapshotOf == nil {
		return nil
	}
	holds := p.Holds()
	way, _ := wayFrom(holds.Digest, p)
	lag := &Lag{Generation: holds.Generation, Steps: len(way), Since: p.Created}
	for _, e := range past {
		if isPublished(e) && e.Generation > holds.Generation && e.Time.Before(lag.Since) {
			lag.Since = e.Time
		}
	}
	return lag
}

// String reads "2 packs behind for 3m0s".
func (l Lag) String() string {
	return fmt.Sprintf("%s behind for %v", words.Count(l.Steps, "pack"), max(0, time.Since(l.Since)).Round(time.Second))
}

// Warning says what is wrong when it is more than most, and what to do; "": nothing is.
func (l Lag) Warning(most time.Duration) string {
	if l.Steps <= mostLag && time.Since(l.Since) <= most {
		return ""
	}
	return advice.Text(fmt.Sprintf("the newest snapshot that the pointer names is of generation %d, %v: what launches takes longer",
		l.Generation, l), "ebs-release snapshot")
}
