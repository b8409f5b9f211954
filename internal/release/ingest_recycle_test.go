package release

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/gc"
)

// threeOf is a volume with three releases, the last one current, and a SOURCE that differs from
// all.
func threeOf(t *testing.T) (v *Volume, dir string, held []Ingested) {
	t.Helper()
	v, dir = volume(t), source(t, first)
	for i := range 3 {
		put(t, dir, "sub/deep/file", fmt.Sprint(i))
		held = append(held, publish(t, v, dir, int64(i+1)))
	}
	second2(t, dir)
	return v, dir, held
}

func TestIngestMakesTheOldestTreeTheNewOne(t *testing.T) {
	v, dir, held := threeOf(t)
	moved := inode(t, v.Path(held[0].ID)+"/bin")
	next, err := v.Ingest(t.Context(), dir, second.Add(time.Hour), gc.Wanted{Keep: 3})
	if err != nil {
		t.Fatal(err)
	}
	same(t, dir, v.Path(next.ID))
	wholeReleases(t, v, held[1].ID, held[2].ID, next.ID)
	if inode(t, v.Path(next.ID)+"/bin") != moved {
		t.Error("its directories were made anew")
	}
	if left := listing(t, v); strings.Contains(left, partialExt) {
		t.Errorf("left behind:\n%s", left)
	}
}

// What somebody needs stays, and what was in the tree does not get into the new one.
func TestIngestRecyclesOnlyWhatNobodyNeeds(t *testing.T) {
	for name, c := range map[string]struct {
		wanted func(held []Ingested) gc.Wanted
		do     func(t *testing.T, old string)
		stays  bool
	}{
		"held": {wanted: func(held []Ingested) gc.Wanted {
			return gc.Wanted{Keep: 3, Held: map[string]string{held[0].ID: "i-1 is on it", held[1].ID: "i-2 is on it"}}
		}, stays: true},
		"fewer than are to be kept": {wanted: func([]Ingested) gc.Wanted { return gc.Wanted{Keep: 4} }, stays: true},
		"not known what is kept":    {wanted: func([]Ingested) gc.Wanted { return gc.Wanted{} }, stays: true},
		"in use": {do: func(t *testing.T, old string) {
			program := exec.CommandContext(t.Context(), "sleep", "60")
			program.Dir = old
			if err := program.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _, _ = program.Process.Kill(), program.Wait() })
		}, stays: true},
		"edited": {do: func(t *testing.T, old string) { put(t, old, "etc/same", "the SAME\n") }},
		"odd": {do: func(t *testing.T, old string) {
			remove(t, old, "bin/run")
			put(t, old, "bin/run/x", "x")
			put(t, old, "more/and/more", "x")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			v, dir, held := threeOf(t)
			wanted := gc.Wanted{Keep: 3}
			if c.wanted != nil {
				wanted = c.wanted(held)
			}
			if c.do != nil {
				c.do(t, v.Path(held[0].ID))
			}
			next, err := v.Ingest(t.Context(), dir, second.Add(time.Hour), wanted)
			if err != nil {
				t.Fatal(err)
			}
			same(t, dir, v.Path(next.ID))
			ids, err := v.Releases()
			if err != nil || slices.Contains(ids, held[0].ID) != c.stays || !slices.Contains(ids, held[1].ID) {
				t.Errorf("%v, %v", ids, err)
			}
			for _, id := range ids[1:] {
				if err := v.Verify(t.Context(), id); err != nil && name != "edited" {
					t.Error(err)
				}
			}
		})
	}
}

// TestPowerMayFailAtEveryStepOfIngest: as on a member, when a release server takes a release in and
// makes it out of the oldest tree.
func TestPowerMayFailAtEveryStepOfIngest(t *testing.T) {
	t.Parallel()
	v, dir, held := threeOf(t)
	one := call{Op: "ingest", Source: dir, Keep: 3}
	look := func(t *testing.T, v *Volume, when string) {
		t.Helper()
		if current, err := v.Current(); err != nil || current != held[2].ID {
			t.Fatalf("%s: current is %q, %v", when, current, err)
		}
		ids, err := v.Releases()
		if err != nil || !slices.Contains(ids, held[1].ID) || !slices.Contains(ids, held[2].ID) {
			t.Fatalf("%s: left are %v, %v", when, ids, err)
		}
		for _, id := range ids {
			if err := v.Verify(t.Context(), id); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
		}
		next, err := v.Ingest(t.Context(), dir, time.Now(), gc.Wanted{Keep: 3})
		if err != nil {
			t.Fatalf("%s: once more: %v", when, err)
		}
		whole(t, v, when, held[1].ID, held[2].ID, next.ID)
		same(t, dir, v.Path(next.ID))
		if _, err := v.Prune(t.Context(), gc.Wanted{Keep: 5}); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if left := listing(t, v); strings.Contains(left, partialExt) {
			t.Fatalf("%s: left behind:\n%s", when, left)
		}
	}
	for name, synced := range map[string]bool{"all on disk": true, "only what was waited for": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			points, looked := powerCuts(t, v, one, nil, synced, func(v *Volume, when string) {
				look(t, v, when)
			}, func(v *Volume) { look(t, v, "undisturbed") })
			t.Logf("ingest, crash matrix: %d points, %d different disks", points, looked)
			if points < 40 || synced && looked < 25 || looked < 3 {
				t.Error("test bug: the ingest was hardly seen")
			}
		})
	}
}
