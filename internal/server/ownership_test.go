package server

import (
	"strings"
	"testing"
)

func TestWhoseVolumeItIs(t *testing.T) {
	const one, two = "1111111111111111", "2222222222222222"
	for _, tc := range []struct {
		name      string
		o         Ownership
		want      string
		wantError []string
	}{
		{"both new", Ownership{}, "", nil},
		{"the same", Ownership{Own: one, File: one, Tag: one}, one, nil},
		{"not tagged yet", Ownership{Own: one, File: one}, one, nil},
		{"the volume is new, or older than ids", Ownership{Own: one, Snapshots: []string{"", one}}, one, nil},
		{"the volume is another's", Ownership{Own: one, File: two}, "", []string{one, two}},
		{"by its tag", Ownership{Own: one, Tag: two}, "", []string{one, two}},
		{"by its snapshots", Ownership{Own: one, Snapshots: []string{"", two}}, "", []string{one, two}},
		{"by its snapshots, and the store is new", Ownership{Snapshots: []string{two}}, "", []string{two, "none yet"}},
		{"an empty store", Ownership{File: one}, "", []string{one, "init --store " + one}},
		{"two answers", Ownership{Own: one, File: one, Tag: two}, "", []string{one, two, "correct the tag"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := tc.o.Decide()
			if got != tc.want || (err != nil) != (tc.wantError != nil) {
				t.Fatalf("%q, %v", got, err)
			}
			for _, words := range tc.wantError {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("%v: want %q in it", err, words)
				}
			}
		})
	}
}
