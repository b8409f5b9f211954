package main

import (
	"strings"
	"testing"

	"ebs-release/internal/pointer"
)

func TestNothingToUndoWhenTheReleaseIsTheSame(t *testing.T) {
	history := []pointer.Entry{
		{Committed: true, Generation: 1, Release: "a"}, {Committed: true, Generation: 2, Release: "b"},
		{Verb: verbConverge, Committed: true, Generation: 2, Release: "b"}, {Generation: 2, Release: "c"}, {Committed: true, Generation: 3, Release: "b"},
	}
	for _, tc := range []struct {
		generation int64
		release    string
		want       bool
	}{{3, "b", true}, {3, "c", false}, {2, "b", false}, {1, "a", false}} {
		if got := nothingToUndo(history, tc.generation, tc.release); got != tc.want {
			t.Errorf("generation %d, release %s: %v", tc.generation, tc.release, got)
		}
	}
}

func TestRollbackChoosesTheGenerationBefore(t *testing.T) {
	const first, second, third = "20260101T000000Z-000000000001", "20260102T000000Z-000000000002", "20260103T000000Z-000000000003"
	commits := []pointer.Entry{ // the latest first
		{Committed: true, Generation: 7, Release: third}, {Committed: true, Generation: 6, Release: third},
		{Committed: true, Generation: 4, Release: second}, {Committed: true, Generation: 2, Release: first},
	}
	for _, tc := range []struct {
		name, to, current string
		at, want          int64
		release           string
		err               string
	}{
		{"before, with another release", "", third, 7, 4, second, ""},
		{"a generation", "2", third, 7, 2, first, ""},
		{"a generation of the same release", "6", third, 7, 6, third, ""},
		{"a release", first, third, 7, 2, first, ""},
		{"a release that was never committed", "20260104T000000Z-000000000004", third, 7, 0, "20260104T000000Z-000000000004", ""},
		{"the current generation", "7", third, 7, 0, "", "generation 7 is the current one"},
		{"the current release", third, third, 7, 0, "", "is the current one (generation 7)"},
		{"a generation that never was", "5", third, 7, 0, "", "no generation 5 in the history, which has 7, 6, 4, 2"},
		{"nothing before", "", first, 2, 0, "", "no generation before 2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e, err := choose(commits, pointer.Pointer{Generation: tc.at, Release: tc.current}, tc.to)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("%v, want %q", err, tc.err)
				}
				return
			}
			if err != nil || e.Generation != tc.want || e.Release != tc.release {
				t.Errorf("%+v, %v", e, err)
			}
		})
	}
}
