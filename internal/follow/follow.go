// Package follow is a member that looks at the pointer by itself, and brings itself to what it
// names: no login, and nothing to do for the publisher but to move the pointer and to wait.
//
// One look is: ask the store; believe what is signed; catch up beside what is served; ask once
// more; flip; run the programs; report. Whatever fails, what is served goes on being served, and
// the next look tries again. Killed at any point, the next start goes on from what the volume says.
package follow

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
	"ebs-release/internal/store"
	"ebs-release/internal/trouble"

	smithytime "github.com/aws/smithy-go/time"
)

// How often a member looks where nothing else is set: at S3, where each request costs money, and at
// a release server.
const (
	IntervalInS3 = 30 * time.Second
	Interval     = 10 * time.Second
)

const (
	mostPause = 2 * time.Minute // between two tries of what fails
	fullEvery = 5 * time.Minute // the volume is looked at this often, though the pointer is the same
	baseRest  = time.Hour       // what cannot be made of this base costs its packs each time
)

// Follower has the parts that it works with, and what it knows.
type Follower struct {
	Store    Store
	Member   Member
	Trusted  []string      // the setting trusted-keys
	Least    int64         // the setting min-generation
	Keep     int           // releases on the volume
	Interval time.Duration // between two looks
	Log      *slog.Logger

	version  store.Version // of document
	document []byte        // as read last; nil: nothing was
	unread   int           // looks in a row that got no pointer
	due      time.Time     // when the volume is looked at though the document is the same
	err      error         // what came of the last time that it was looked at
	failures int           // of those, in a row
	unusable base          // nothing could be made of it for this document
	owed     bool          // programs may have to run for what is current, whatever the pointer says
	staged   flipTo        // what stage.d let through
	aim      int64         // the generation that this member is to be on, as far as it knows
	quiet    time.Time     // until then the publisher is told of no trouble: it could not be, a moment ago
	drained  flipTo        // what drain.d has run for, since programs ran
	left     bool          // programs may still run that nobody waits for any more
	state    status.Follow
	written  status.Follow
	said     map[string]bool // causes of trouble that are in the log, since all was well
}

// base is what a volume serves, and until when it is not tried again.
type base struct {
	volume, release string
	rests           time.Time
}

// flipTo is what is about to become current.
type flipTo struct {
	generation int64
	release    string
}

// Store is where the pointer and the packs lie.
type Store interface {
	// Look reads the pointer once: store.ErrUnmodified when it has the version still.
	Look(ctx context.Context, unless store.Version) (pointer.Fetched, store.Version, error)
	Store(ctx context.Context) (store.Reader, error)
	Place() string
}

// Member is this machine.
type Member interface {
	// Who is asked while a rollout is open.
	Who(ctx context.Context) (pointer.Instance, error)
	// Volume opens the release volume, and says its id. It fails as long as a boot is under way.
	Volume(ctx context.Context) (v *release.Volume, id string, err error)
	// Stage has the programs of stage.d look at a release that is on the volume. An error: it is not
	// to become current; a Refusal is the word of a program.
	Stage(ctx context.Context, p pointer.Pointer) error
	// Drain runs those of drain.d, when another release is about to become current. drained says
	// whether there are any: then RunPrograms has to follow, also after an error.
	Drain(ctx context.Context, p pointer.Pointer) (drained bool, err error)
	// RunPrograms runs the programs for what is active on the volume, which leave the mark, and
	// returns when they have ended, or ctx has; then they go on. Those that run already are waited
	// for.
	RunPrograms(ctx context.Context) error
	// Report tells the publisher.
	Report(ctx context.Context, r status.Reported) error
	// Complain tells the publisher of trouble, beside what it knows from Report.
	Complain(ctx context.Context, r status.Reported, t trouble.Trouble) error
	// Tell keeps what was seen, for people, and for the next start.
	Tell(s status.Follow) error
}

// Refusal is the error of a program that does not let a release become current.
type Refusal struct{ Err error }

func (r Refusal) Error() string { return r.Err.Error() }

// Unwrap returns what the program said.
func (r Refusal) Unwrap() error { return r.Err }

// Run looks until ctx ends. before is what an earlier run has told.
func (f *Follower) Run(ctx context.Context, before status.Follow) {
	f.state, f.said = before, map[string]bool{}
	f.owed = true               // whoever was killed may have drained
	pause := rand.N(f.Interval) // members that booted together do not ask together from now on
	for smithytime.SleepWithContext(ctx, pause) == nil {
		var err error
		pause, err = f.look(ctx)
		if ctx.Err() != nil { // told to stop: that is no trouble
			return
		}
		f.complain(ctx, err)
		f.tell(err)
		pause -= rand.N(pause/5 + 1)
	}
}

// backoff doubles from the interval to mostPause. An interval that is longer stays.
func backoff(interval time.Duration, failures int) time.Duration {
	pause := interval
	for i := 1; i < failures && pause < mostPause; i++ {
		pause = min(2*pause, mostPause)
	}
	return pause
}
