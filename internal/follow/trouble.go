package follow

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/status"
	"ebs-release/internal/trouble"
	"ebs-release/internal/words"
)

// mostCauses is how many causes are said in one time of trouble.
const mostCauses = 16

// complainRest is between two tries to tell the publisher: one that is refused costs a call, too.
const complainRest = 10 * time.Minute

// waiting: the boot is not over. What it says changes with each stage.
type waiting struct{ error }

func (w waiting) Unwrap() error { return w.error }

// refused is a Refusal by stage.d: it is about the release, while what keeps a machine in service
// (drain.d) may be over a moment later.
type refused struct{ error }

func (r refused) Unwrap() error { return r.error }

// badPrograms: the release is current, and its programs have failed.
type badPrograms struct{ error }

func (b badPrograms) Unwrap() error { return b.error }

// complain tells the publisher why this member is not where it is to be, once for each cause: what
// else it knows is only that the member is behind. What programs say of a release is told again for
// each write of the pointer that they were asked for: whoever carries a rollout on waits for that.
func (f *Follower) complain(ctx context.Context, err error) {
	_, waits := errors.AsType[waiting](err)
	switch {
	case err == nil:
		f.state.Told = trouble.Trouble{}
		return
	case f.unread > 0, waits, errors.Is(err, errMoved), time.Now().Before(f.quiet):
		return
	}
	_, no := errors.AsType[refused](err)
	why, _ := advice.Of(err)
	_, bad := errors.AsType[badPrograms](err)
	t := trouble.Trouble{Generation: f.aim, Revision: f.state.Believed.Revision, Refused: no, Why: words.OneLine(errors.New(why))}
	told := f.state.Told
	same := told.Generation == t.Generation && told.Refused == t.Refused && withoutNumbers(told.Why) == withoutNumbers(t.Why)
	if same && (told.Revision == t.Revision || !no && !bad) {
		return
	}
	r, failed := f.serves(ctx)
	if failed == nil {
		failed = f.Member.Complain(ctx, r, t)
	}
	if failed == nil {
		f.state.Told = t
		f.keep()
		return
	}
	f.quiet = time.Now().Add(complainRest)
	f.Log.Debug("cannot tell the publisher what is wrong", "error", failed)
}

// serves is what the publisher knows of this member, or, where nothing was reported yet, what there
// is to know.
func (f *Follower) serves(ctx context.Context) (r status.Reported, err error) {
	v, id, err := f.Member.Volume(ctx)
	if err != nil {
		return r, err
	}
	defer func() { _ = v.Close() }()
	r.VolumeID = id
	if r.Generation, r.Release, err = v.Fence(); err == nil {
		err = v.CheckActive(r.Release, r.Generation)
	}
	if err == nil {
		r.Ready, err = v.ProgramsDone()
	}
	if was := f.state.Reported; was.VolumeID == id && was.Generation == r.Generation {
		r = was
	}
	return r, err
}

// cause is the same for the same trouble, whatever numbers are in its words.
func cause(err error) string {
	if _, ok := errors.AsType[waiting](err); ok {
		return "waiting"
	}
	return withoutNumbers(err.Error())
}

func withoutNumbers(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, text)
}

// tell says in the log what is wrong, each cause once, and keeps what was seen.
func (f *Follower) tell(err error) {
	now := time.Now()
	switch {
	case err != nil:
		f.state.Trouble = words.OneLine(err)
		if f.state.Since.IsZero() {
			f.state.Since = now.UTC().Truncate(time.Second)
		}
		if key := cause(err); !f.said[key] && len(f.said) < mostCauses {
			f.said[key] = true
			f.Log.Warn(f.state.Trouble)
		}
	case f.state.Trouble != "":
		f.Log.Info(fmt.Sprintf("all is well again after %s: generation %d, release %s",
			now.Sub(f.state.Since).Round(time.Second), f.state.Generation, f.state.Release))
		f.state.Trouble, f.state.Since = "", time.Time{}
		clear(f.said)
	}
	f.keep()
}

// keep writes what was seen, if that is new.
func (f *Follower) keep() {
	if f.state == f.written {
		return
	}
	err := f.Member.Tell(f.state)
	if err == nil {
		f.written = f.state
	} else if !f.said[cause(err)] {
		f.said[cause(err)] = true
		f.Log.Warn("cannot tell what was seen", "error", err)
	}
}

// reported says whether the publisher knows it already.
func (f *Follower) reported(r status.Reported) bool { return f.state.Reported == r }
