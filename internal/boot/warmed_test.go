package boot_test

import (
	"errors"
	"strings"
	"testing"

	"ebs-release/internal/boot"
)

// TestAWarmPoolServesNothing: what is prepared is let go of, nothing is reported, and the gate
// stays shut. The boot into service begins with the pointer.
func TestAWarmPoolServesNothing(t *testing.T) {
	w := newWorld(7)
	warmed := true
	w.instance.warmed = func() (bool, error) { return warmed, nil }
	f, _, err := w.boot(t)
	if !errors.Is(err, boot.ErrWarmed) || f.VolumeID != "vol-new1" || f.Generation != 7 {
		t.Fatalf("%+v, %v", f, err)
	}
	if last := w.stages[len(w.stages)-1]; last != "may serve" {
		t.Errorf("it ends at %s", last)
	}
	w.want(t, "create vol-new1", "attach vol-new1", "protect vol-new1", "mount vol-new1", "close vol-new1")
	w.pointer, w.packs, w.effects, warmed = 8, true, nil, false
	f, _, err = w.boot(t)
	if err != nil || f.Generation != 8 || f.VolumeID != "vol-new1" {
		t.Fatalf("into service: %+v, %v", f, err)
	}
	got := strings.Join(w.effects, "; ")
	if !strings.Contains(got, "catch up vol-new1") && !strings.Contains(got, "report 8 ready=true") || strings.Contains(got, "create") {
		t.Errorf("into service: %s", got)
	}
}

// TestAWarmPoolTakesTheMountAway: of one that was served before; what still uses it keeps it.
func TestAWarmPoolTakesTheMountAway(t *testing.T) {
	for name, busy := range map[string]error{"nobody uses it": nil, "a process uses it": errors.New("in use by pid 42 (app)")} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(7)
			w.have(boot.Volume{ID: "vol-1", SnapshotID: "snap-7", Attached: true, Protected: true}, 7)
			w.mounted = "vol-1"
			unmounts := 0
			w.mounts.unmount = func() error { unmounts++; return busy }
			w.instance.warmed = func() (bool, error) { return true, nil }
			if _, _, err := w.boot(t); !errors.Is(err, boot.ErrWarmed) || unmounts != 1 {
				t.Fatalf("%v, %d unmounts", err, unmounts)
			}
			w.want(t)
		})
	}
}

func TestWhereItBelongsHasToBeKnown(t *testing.T) {
	w := newWorld(7)
	w.instance.warmed = func() (bool, error) { return false, errors.New("no answer") }
	_, _, err := w.boot(t)
	if err == nil || !strings.HasPrefix(err.Error(), "may serve: no answer") || w.mounted != "" {
		t.Fatalf("%v, mounted %q", err, w.mounted)
	}
}
