package follow

import (
	"errors"
	"slices"
	"testing"

	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
)

const zone = "eu-west-1a"

// rollout is a pointer to release 1, the stable one, with a rollout of release 2 to a zone; "": to
// nobody yet.
func (w *world) rollout(revision int64, to string) pointer.Pointer {
	p := w.names(1, 1)
	of := w.releases[1]
	p.Revision = revision
	p.Rollout = &pointer.Rollout{
		Held: pointer.Held{Generation: 2, Release: of.ID, Digest: of.Digest}, Steps: []pointer.Step{{Members: 1}, {Percent: 100}},
	}
	if to != "" {
		p.Rollout.Share = map[string]string{to: "ffffffffffffffff"}
	}
	return p
}

// back is the pointer after an abort: the stable release, as a new generation.
func (w *world) back(revision int64) pointer.Pointer {
	p := w.names(3, 1)
	p.Revision, p.Edges = revision, nil // what led to the new release leads nowhere now
	return p
}

func (w *world) has(n int) bool {
	w.t.Helper()
	v, err := release.Open(w.member)
	must(w.t, err)
	defer func() { _ = v.Close() }()
	ids, err := v.Releases()
	must(w.t, err)
	return slices.Contains(ids, w.releases[n-1].ID)
}

// The share goes on, and back by the tree that is still there, however few are kept.
func TestAMemberOfTheShare(t *testing.T) {
	w := newWorld(t, 2)
	w.me = pointer.Instance{ID: "i-1", Zone: zone}
	f := w.follower()
	f.Keep = 1
	w.follow(t, f, func() {
		w.say(w.rollout(1, zone))
		w.pass(longest)
		w.on(2, 2)
		if side := (status.Rollout{Generation: 2, Release: w.releases[1].ID, HasIt: true}); w.told.Rollout != side || w.told.Generation != 2 {
			t.Errorf("told %+v, want %+v", w.told, side)
		}
		if !w.has(1) {
			t.Error("the stable release is gone while the rollout is open")
		}
		w.say(w.rollout(0, "")) // a cache: from before it was raised
		w.pass(longest)
		w.on(2, 2)
		if w.told.Trouble == "" {
			t.Errorf("told %+v", w.told)
		}
		w.say(w.back(2))
		w.pass(longest)
		w.on(3, 1)
		if w.told.Rollout != (status.Rollout{}) || w.told.Trouble != "" || w.ran != 2 {
			t.Errorf("told %+v, programs ran %d times", w.told, w.ran)
		}
		if w.has(2) {
			t.Error("the release that was given up is kept, with keep = 1")
		}
	})
}

// Whoever stays where it is hears no programs, neither of the rollout nor of its end.
func TestAMemberOfTheOtherSide(t *testing.T) {
	for name, raised := range map[string]bool{"aborted": false, "raised": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2)
			w.me = pointer.Instance{ID: "i-1", Zone: zone}
			w.follow(t, w.follower(), func() {
				w.say(w.rollout(1, "eu-west-1b"))
				w.pass(longest)
				w.on(1, 1)
				if w.told.Rollout.Generation != 2 || w.told.Rollout.HasIt || w.told.Generation != 1 || w.ran != 0 {
					t.Errorf("told %+v, programs ran %d times", w.told, w.ran)
				}
				if raised {
					w.say(w.rollout(2, zone))
					w.pass(longest)
					w.on(2, 2)
					over := w.names(2, 2)
					over.Revision = 3
					w.say(over)
					w.pass(longest)
					w.on(2, 2)
					if w.ran != 1 || w.told.Rollout != (status.Rollout{}) {
						t.Errorf("told %+v, programs ran %d times", w.told, w.ran)
					}
					return
				}
				w.say(w.back(2))
				w.pass(longest)
				w.on(3, 1) // the fence is raised and reported
				if w.ran != 0 {
					t.Errorf("programs ran %d times, and nothing changed for the application", w.ran)
				}
			})
		})
	}
}

// The rollout is aborted while a member of the share catches up.
func TestAnAbortDuringALook(t *testing.T) {
	w := newWorld(t, 2)
	w.me = pointer.Instance{ID: "i-1", Zone: zone}
	w.follow(t, w.follower(), func() {
		w.pass(longest)
		looks := 0
		w.onLook = func() {
			switch looks++; looks {
			case 1:
				w.say(w.rollout(1, zone))
			case 2: // it asks once more
				w.say(w.back(2))
			}
		}
		w.pass(longest)
		w.on(3, 1)
		if w.ran != 0 {
			t.Errorf("programs ran %d times", w.ran)
		}
	})
}

// Without its name a member does not know its side, and stays.
func TestNobodySaysWhoItIs(t *testing.T) {
	w := newWorld(t, 2)
	w.me, w.nobody = pointer.Instance{ID: "i-1", Zone: zone}, errors.New("no metadata")
	w.follow(t, w.follower(), func() {
		w.say(w.rollout(1, zone))
		w.pass(longest)
		w.on(1, 1)
		if w.lines("see on which side of the rollout of generation 2 this member is: no metadata") != 1 {
			t.Errorf("log:\n%s", w.log.String())
		}
		w.mu.Lock()
		w.nobody = nil
		w.mu.Unlock()
		w.pass(mostPause)
		w.on(2, 2)
	})
}

// Who can write to the store plays the pointer of a rollout back that was aborted: whoever has been
// in its share, or not, does not go there any more.
func TestAnAbortedRolloutIsNotReplayed(t *testing.T) {
	for _, side := range []string{zone, "eu-west-1b"} {
		w := newWorld(t, 2)
		w.me = pointer.Instance{ID: "i-1", Zone: side}
		w.follow(t, w.follower(), func() {
			open := w.rollout(1, zone)
			w.say(open)
			w.pass(longest)
			w.say(w.back(2))
			w.pass(longest)
			w.on(3, 1)
			ran := w.ran
			open.Rollout.Share = nil
			open.Rollout.All = true // signed, too: it was the next step
			w.say(open)
			w.pass(longest)
			if is := w.holds(); is.generation != 3 || is.release != w.releases[0].ID || w.ran != ran || w.told.Trouble == "" {
				t.Errorf("%s: it is %+v, told %+v", side, is, w.told)
			}
		})
	}
}
