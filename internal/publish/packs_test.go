package publish_test

import (
	"slices"
	"strings"
	"testing"

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
