package follow

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"ebs-release/internal/status"
	"ebs-release/internal/words"
)

// mostCauses is how many causes are said in one time of trouble.
const mostCauses = 16

// waiting: the boot is not over. What it says changes with each stage.
type waiting struct{ error }

func (w waiting) Unwrap() error { return w.error }

// cause is the same for the same trouble, whatever numbers are in its words.
func cause(err error) string {
	if _, ok := errors.AsType[waiting](err); ok {
		return "waiting"
	}
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, err.Error())
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
