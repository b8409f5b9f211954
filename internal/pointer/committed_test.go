package pointer

import (
	"slices"
	"testing"
)

func TestThePacksTellWhatWasCommitted(t *testing.T) {
	to := func(ids ...string) (edges []Edge) {
		for _, id := range ids {
			edges = append(edges, Edge{Release: id})
		}
		return edges
	}
	for name, tc := range map[string]struct {
		edges []Edge
		want  []string
	}{
		"nothing is listed":         {nil, nil},
		"one after the other":       {to("a", "b", "now"), []string{"now", "b", "a"}},
		"twice, by a full pack":     {to("a", "b", "a", "now"), []string{"now", "a", "b"}},
		"a rollback without a pack": {to("now", "b"), []string{"now", "b"}},
	} {
		if got := (Pointer{Release: "now", Edges: tc.edges}).Committed(); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
