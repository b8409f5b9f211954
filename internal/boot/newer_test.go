package boot_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/boot"
)

// A pointer that was valid once names a snapshot whose volume knows of nothing later: that there is
// a later snapshot of the same store tells.
func TestABootOnAReplayedPointerIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(w *world)
		err    error
		boots  int64 // generation
		asks   bool
	}{
		"a later snapshot":    {func(*world) {}, boot.ErrOlder, 0, true},
		"none that is later":  {func(w *world) { w.pointer = 8 }, nil, 8, true},
		"the operator's word": {func(w *world) { w.parts.Older = true }, nil, 7, false},
		"the pointer is not signed, and names one snapshot": {func(w *world) { w.packs = false }, nil, 7, false},
		"the pointer moved meanwhile": {func(w *world) {
			newest := w.volumes.newest
			w.volumes.newest = func(ctx context.Context, store string) (int64, string, error) {
				w.pointer = 8
				return newest(ctx, store)
			}
		}, nil, 8, true},
		"EC2 says nothing sensible": {func(w *world) {
			w.volumes.newest = func(context.Context, string) (int64, string, error) {
				w.did("ask")
				return 8, "snap-8", errors.New("not allowed")
			}
		}, nil, 7, true},
		"an earlier boot made the volume, and did not serve it": {func(w *world) {
			w.have(boot.Volume{ID: "vol-1", SnapshotID: "snap-7", Attached: true, Protected: true}, 7)
		}, boot.ErrOlder, 0, true},
		"an earlier boot served": {func(w *world) {
			w.have(boot.Volume{ID: "vol-1", SnapshotID: "snap-7", Attached: true, Protected: true, Reported: boot.Report{Ready: true, Generation: 7}}, 7)
		}, nil, 7, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(7)
			w.packs = true
			w.volumes.newest = func(_ context.Context, store string) (int64, string, error) {
				w.did("ask")
				if store != "store" {
					t.Errorf("asked for store %q", store)
				}
				return 8, "snap-8", nil
			}
			tc.change(w)
			had := len(w.account)
			f, _, err := w.boot(t)
			if !errors.Is(err, tc.err) || tc.err == nil && (err != nil || f.Generation != tc.boots) {
				t.Errorf("%+v, %v", f, err)
			}
			if slices.Contains(w.effects, "ask") != tc.asks {
				t.Errorf("asked: %v", w.effects)
			}
			if tc.err == nil {
				return
			}
			if text := err.Error(); !strings.HasPrefix(text, "look for newer: snap-8 of the same store has generation 8, the pointer says 7") {
				t.Error(text)
			}
			if len(w.account) != had || w.mounted != "" || slices.ContainsFunc(w.effects, func(e string) bool { return strings.HasPrefix(e, "report") }) {
				t.Errorf("left: %v, %q; %v", w.account, w.mounted, w.effects)
			}
		})
	}
}

func TestABootDoesNotWaitLongForTheSnapshots(t *testing.T) {
	w := newWorld(7)
	w.packs = true
	w.volumes.newest = func(ctx context.Context, _ string) (int64, string, error) {
		<-ctx.Done()
		return 0, "", ctx.Err()
	}
	if f, took, err := w.boot(t); err != nil || f.Generation != 7 || took != 5*time.Second {
		t.Errorf("%+v, %v, %v", f, took, err)
	}
}
