package boot_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"ebs-release/internal/boot"
)

// rollout is a pointer of generation 7 with a rollout of generation 8, given to one instance.
func rollout(to string) boot.Pointer {
	p := pointer(7)
	p.Document = "7 and 8"
	p.For = func(me boot.Identity) boot.Pointer {
		own := pointer(7)
		own.Document = p.Document
		if me.InstanceID == to {
			own = pointer(8)
			own.Document, own.Snapshot, own.Behind = p.Document, p.Snapshot, true
		}
		return own
	}
	return p
}

// An instance that boots takes its own side, from the one snapshot that there is.
func TestABootTakesItsOwnSide(t *testing.T) {
	for to, generation := range map[string]int64{"i-me": 8, "i-2": 7} {
		w := newWorld(7)
		w.packs = true
		w.pointers.fetch = func(context.Context) (boot.Pointer, error) { return rollout(to), nil }
		create := w.volumes.create
		w.volumes.create = func(ctx context.Context, want boot.Wanted) (boot.Volume, error) {
			if want.Who.InstanceID != "i-me" || want.Behind != (generation == 8) {
				t.Errorf("wanted: %+v", want)
			}
			v, err := create(ctx, want)
			w.holds[v.ID] = 7
			return v, err
		}
		if f, _, err := w.boot(t); err != nil || f.Generation != generation || f.SnapshotID != snapshot(7) {
			t.Errorf("given to %s: %+v, %v", to, f, err)
		}
	}
}

// A rollout that begins, is raised, aborted or finished during a boot leads back to catch up, where
// the target of this instance is another one by that.
func TestARolloutThatMovesDuringABoot(t *testing.T) {
	first := []string{"create vol-new1", "attach vol-new1", "protect vol-new1", "mount vol-new1"}
	over := func(generation int64) boot.Pointer {
		p := pointer(generation)
		p.Document = "over"
		return p
	}
	for name, tc := range map[string]struct {
		from, to boot.Pointer
		then     []string
	}{
		"begun for another one":  {over(7), rollout("i-2"), []string{"report 7 ready=true", "ready 7 on vol-new1"}},
		"begun for this one":     {over(7), rollout("i-me"), []string{"report 7 ready=true", "catch up vol-new1 to 8", "report 8 ready=true", "ready 8 on vol-new1"}},
		"raised to another one":  {rollout("i-3"), rollout("i-2"), []string{"report 7 ready=true", "ready 7 on vol-new1"}},
		"finished":               {rollout("i-me"), over(8), []string{"catch up vol-new1 to 8", "report 8 ready=true", "ready 8 on vol-new1"}},
		"finished, from outside": {rollout("i-2"), over(8), []string{"report 7 ready=true", "catch up vol-new1 to 8", "report 8 ready=true", "ready 8 on vol-new1"}},
		"aborted": {rollout("i-me"), over(9), []string{
			"catch up vol-new1 to 8", "report 8 ready=true", "catch up vol-new1 to 9", "report 9 ready=true", "ready 9 on vol-new1"}},
		"aborted elsewhere": {rollout("i-2"), over(9), []string{
			"report 7 ready=true", "catch up vol-new1 to 9", "report 9 ready=true", "ready 9 on vol-new1"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(7)
			now := tc.from
			w.pointers.fetch = func(context.Context) (boot.Pointer, error) { return now, nil }
			create := w.volumes.create
			w.volumes.create = func(ctx context.Context, want boot.Wanted) (boot.Volume, error) {
				v, err := create(ctx, want)
				w.holds[v.ID] = 7
				return v, err
			}
			w.afterReport(func() { now = tc.to })
			if _, _, err := w.boot(t); err != nil {
				t.Fatal(err)
			}
			last := len(tc.then) - 1
			w.want(t, slices.Concat(first, tc.then[:last], []string{"place vol-new1", "close vol-new1"}, tc.then[last:])...)
		})
	}
}

// A copy of the pointer from before the rollout was raised is refused by whoever has its release.
func TestACachedPointerFromBeforeARaise(t *testing.T) {
	w := newWorld(7)
	w.have(adopted, 8)
	w.pointers.fetch = func(context.Context) (boot.Pointer, error) { return rollout("i-2"), nil }
	if _, _, err := w.boot(t); !errors.Is(err, boot.ErrOlder) {
		t.Error(err)
	}
}
