package publish_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/push"
	"ebs-release/internal/release"
)

// needs is a member that packs lead on from one of some releases only, by their digests; "": from
// nothing.
func needs(held []release.Held, from ...string) func([]pointer.Edge) error {
	return func(edges []pointer.Edge) error {
		if slices.ContainsFunc(edges, func(e pointer.Edge) bool { return slices.Contains(from, e.From) }) {
			return nil
		}
		return &push.NoWayError{Held: held, Reason: "no packs lead there"}
	}
}

// A member that the pointer's packs do not lead on gets one that does, which is made once for all
// who need it.
func TestMemberThatNoPackLeadsOnGetsAnother(t *testing.T) {
	older, unknown := release.Held{ID: "r0", Digest: "d0"}, release.Held{ID: "r9", Digest: "d9"}
	for name, tc := range map[string]struct {
		held []release.Held
		from []string // where a pack may start from
		want string   // packs that are made in all
	}{
		"from an older release that both hold": {[]release.Held{older}, []string{"d0"}, "pack r1 r2, pack r0 r2"},
		"from nothing, as it holds nothing":    {nil, []string{""}, "pack r1 r2, pack  r2"},
		"from nothing, as none of its releases is here": {
			[]release.Held{unknown, {ID: "r0", Digest: "another"}}, []string{""}, "pack r1 r2, pack  r2"},
		"from nothing, as the older one is damaged, too": {[]release.Held{older}, []string{""}, "pack r1 r2, pack r0 r2, pack  r2"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld("a", "b", "c")
			w.trees["r0"] = "d0"
			w.boxes["a"].leads, w.boxes["b"].leads = needs(tc.held, tc.from...), needs(tc.held, tc.from...)
			o, code, err := w.runWithPacks(t)
			if code != 0 || o.OnIt != 3 || o.Fetched.Packs != 3 {
				t.Fatalf("code %d, %v, %+v", code, err, o)
			}
			if got := strings.Join(w.did("pack"), ", "); got != tc.want {
				t.Errorf("made %q, want %q", got, tc.want)
			}
		})
	}
}

// No pack at all leads a member on: it is named, with what it said.
func TestMemberThatNothingLeadsOnIsTold(t *testing.T) {
	w := newWorld("a", "b")
	w.boxes["a"].leads = func([]pointer.Edge) error { return &push.NoWayError{Reason: "the disk is bad"} }
	o, code, err := w.runWithPacks(t)
	if code != 5 || o.OnIt != 1 || err == nil || !strings.Contains(err.Error(), "the disk is bad") {
		t.Errorf("code %d, %v, %+v", code, err, o)
	}
}

// slowPacks take longer than a step on a member may.
type slowPacks struct{ *world }

func (s slowPacks) Make(ctx context.Context, from, to string) (pointer.Edge, error) {
	select {
	case <-time.After(5 * time.Minute): // of one
		return s.world.Make(ctx, from, to)
	case <-ctx.Done():
		return pointer.Edge{}, ctx.Err()
	}
}

func TestPackForMembersTakesAsLongAsItTakes(t *testing.T) {
	w := newWorld("a", "b", "c")
	w.boxes["a"].leads, w.boxes["b"].leads = needs(nil, ""), needs(nil, "")
	synctest.Test(t, func(t *testing.T) {
		p := w.publisher()
		p.Keys, p.Packs = nil, slowPacks{w}
		o, err := p.Publish(t.Context(), "source")
		if err != nil || o.OnIt != 3 {
			t.Errorf("%v, %+v", err, o)
		}
	})
	if got := strings.Join(w.did("pack"), ", "); got != "pack r1 r2, pack  r2" {
		t.Errorf("made %q", got)
	}
}

// Nobody logs in to members that follow: the pointer lists what leads them on.
func TestPointerLeadsFollowersOn(t *testing.T) {
	for name, tc := range map[string]struct {
		on   string // that a member reports
		want string
	}{
		"the release before":          {"r1", "pack r1 r2"},
		"an older one, which is here": {"r0", "pack r1 r2, pack r0 r2"},
		"an older one, which is not":  {"r-unknown", "pack r1 r2, pack  r2"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld("a", "b", "c")
			w.trees["r0"] = "d0"
			w.boxes["a"].Release, w.boxes["b"].Release = tc.on, tc.on
			synctest.Test(t, func(t *testing.T) {
				p := w.publisher()
				p.Keys, p.Dialer, p.Settings.ConvergeDeadline = nil, nil, time.Second // none of them follows: that is not the point
				_, _ = p.Publish(t.Context(), "source")
			})
			if got := strings.Join(w.did("pack"), ", "); got != tc.want || len(w.pointer.Edges) != strings.Count(tc.want, "pack") {
				t.Errorf("made %q, lists %d", got, len(w.pointer.Edges))
			}
		})
	}
}

// gc may remove a pack of yesterday that no pointer lists: a publish that was held up for so long
// begins again.
func TestCommitRefusesAnOldPack(t *testing.T) {
	for held, want := range map[time.Duration]int{11 * time.Hour: 0, 13 * time.Hour: 3} {
		w := newWorld("a")
		synctest.Test(t, func(t *testing.T) {
			p := w.publisher()
			p.Keys = nil // those of the pointer
			w.hook = func(call string) error {
				if call == "stage a" {
					time.Sleep(held)
				}
				return nil
			}
			p.Settings.MemberTimeout = 24 * time.Hour
			_, err := p.Publish(t.Context(), "source")
			if got := exit.Code(err); got != want || want != 0 && !strings.Contains(err.Error(), "was made 13h0m0s ago") {
				t.Errorf("after %v: code %d, %v", held, got, err)
			}
		})
		if moved := w.pointer.Generation != 1; moved != (want == 0) {
			t.Errorf("after %v: the pointer is at generation %d", held, w.pointer.Generation)
		}
	}
}
