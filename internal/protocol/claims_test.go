package protocol

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/publish"
	"ebs-release/internal/release"
)

// wrong looks for what must never be, after each step.
func (w *world) wrong() string {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	say := func(format string, args ...any) { w.bad = append(w.bad, fmt.Sprintf(format, args...)) }
	for _, b := range w.boxes {
		if now := w.show(b); now != b.views[len(b.views)-1].Member {
			b.views = append(b.views, view{now, time.Now()})
		}
		serves := b.serves()
		if serves == 0 {
			continue
		}
		switch {
		case serves < w.said && !b.pooled:
			say("%s serves generation %d, and a publisher said that all members are on %d", b.id, serves, w.said)
		case serves < b.top:
			say("%s serves generation %d, after %d", b.id, serves, b.top)
		case serves > w.pointer.Highest() && !slices.Contains(w.commits, serves):
			say("%s serves generation %d, which is not committed", b.id, serves)
		}
		if b.mounted.unfit {
			say("%s serves %s, which is of another store", b.id, b.mounted.id)
		}
		if of := w.named(serves); of != b.mounted.release {
			say("%s serves release %s at generation %d, and the pointer named %q", b.id, b.mounted.release, serves, of)
		}
		b.top = serves
		w.sides(b, say)
	}
	for _, b := range w.boxes {
		for _, d := range b.disks {
			if d.generation < d.fence {
				say("the fence of %s went down to %d, from %d", d.id, d.generation, d.fence)
			}
			d.fence = d.generation
		}
		if d := b.mounted; d != nil {
			d.well = max(d.well, d.done)
			if d.tags.Ready && !d.tags.Pending && d.tags.Generation > d.well {
				say("%s reports generation %d, and its programs have succeeded for %d", b.id, d.tags.Generation, d.well)
			}
		}
	}
	for _, l := range w.listed {
		if is, there := w.snapshots[l.ID]; there && is != (image{l.Holds.Generation, l.Holds.Release}) {
			say("%s is named for release %s at %d, and holds %s at %d", l.ID, l.Holds.Release, l.Holds.Generation, is.release, is.generation)
		}
	}
	if _, ok := w.snapshots[w.pointer.Snapshots[region]]; !ok {
		say("the snapshot of the pointer is deleted: %s", w.pointer.Snapshots[region])
	}
	if content, holds := w.snapshots[w.pointer.Snapshots[region]], w.pointer.Holds(); content.release != holds.Release || content.generation > w.pointer.Generation {
		say("the pointer of generation %d says that %s holds %s, and it has %s at %d",
			w.pointer.Generation, w.pointer.Snapshots[region], holds.Release, content.release, content.generation)
	}
	for i, g := range w.commits {
		if i > 0 && g <= w.commits[i-1] {
			say("generation %d is committed after %d", g, w.commits[i-1])
		}
	}
	if time.Since(w.s.started) > 25*time.Second {
		say("a run takes too long for a boot not to look at the clock")
	}
	return strings.Join(w.bad, "; ")
}

// named is the release that the pointer named at a generation.
func (w *world) named(generation int64) string {
	for _, e := range w.history {
		if e.Generation == generation {
			return e.Release
		}
	}
	if generation == 1 {
		return "r1"
	}
	return ""
}

// namedLater is in the end of a run in which somebody named a snapshot that its publisher had left.
const namedLater = "named"

// over looks at the end of a run.
func (w *world) over() (end, wrong string) {
	for _, b := range w.boxes {
		kept := slices.ContainsFunc(b.disks, func(d *disk) bool { return d.generation >= b.top })
		if b.serves() == 0 && !(w.back && kept) {
			wrong = b.id + " does not serve in the end"
		}
		if made := b.made(); made != b.needs() {
			wrong = fmt.Sprintf("%s has made %d volumes in the end", b.id, made)
		}
		if b.serves() > 0 && b.mounted.out {
			wrong = b.id + " is out of service in the end"
		}
		if behind := cmp.Or(w.behind(b), w.stranded(b)); behind != "" {
			wrong = behind
		}
	}
	slices.Sort(w.ends)
	end = strings.Join(w.ends, " ")
	if w.leaves && w.pointer.Holds().Generation > 1 {
		end += " " + namedLater
	}
	return end, wrong
}

// returned looks at how a publisher ended: what it says of each member has to be so, or it must
// name those of which it is not.
func (w *world) returned(name string, o publish.Outcome, err error) {
	code := exit.Code(err)
	w.ends = append(w.ends, fmt.Sprintf("%s=%d", name, code))
	switch code {
	case exit.Done, exit.RolledBack:
		w.said = max(w.said, o.Generation)
		for _, b := range w.boxes {
			if m := w.show(b); b.serves() > 0 && !b.pooled && m.Generation < o.Generation && !w.unlocked {
				w.bad = append(w.bad, fmt.Sprintf("all members are said to be on generation %d, and the tags of %s say %d", o.Generation, b.id, m.Generation))
			}
			want := o.Generation
			if w.pointer.Rollout != nil {
				want = w.target(b).generation
			}
			switch s := b.serves(); {
			case s == 0 || b.pooled || w.pointer.Generation != o.Generation: // somebody else has moved it on
			case s != want:
				w.bad = append(w.bad, fmt.Sprintf("all members are said to be on generation %d, and %s serves %d", want, b.id, s))
			case b.mounted.done != s:
				w.bad = append(w.bad, fmt.Sprintf("all members are said to be on generation %d, and the programs of %s have succeeded for %d", s, b.id, b.mounted.done))
			}
		}
	case exit.NotConverged:
		for _, b := range w.boxes {
			named := slices.ContainsFunc(o.Members, func(m publish.Member) bool { return m.InstanceID == b.id && m.Standing != "current" })
			if s := b.serves(); s > 0 && s < o.Generation && !w.late && !b.pooled && !named {
				w.bad = append(w.bad, fmt.Sprintf("%s serves generation %d, and the publisher of %d does not name it: %v", b.id, s, o.Generation, err))
			}
		}
	case exit.Conflict:
	default:
		faster := w.rolls && (code == exit.Paused || code == exit.Unchanged) // another driver was
		if !faster && !w.mayFail && !errors.Is(err, release.ErrPublishing) {
			w.bad = append(w.bad, fmt.Sprintf("publisher %s: %v", name, err))
		}
	}
}
