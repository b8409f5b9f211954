package boot_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/boot"
)

// adopted is a volume of an earlier boot: attached, made from an older snapshot.
var adopted = boot.Volume{ID: "vol-1", SnapshotID: "snap-6", Attached: true, Protected: true}

// afterReport changes the world between the report and the re-read, once.
func (w *world) afterReport(do func()) {
	report, done := w.volumes.report, false
	w.volumes.report = func(v boot.Volume, r boot.Report) error {
		if !done {
			done = true
			do()
		}
		return report(v, r)
	}
}

func TestAVolumeOfAnEarlierBootCatchesUp(t *testing.T) {
	w := newWorld(7)
	w.packs = true
	w.have(adopted, 6)
	if f, _, err := w.boot(t); err != nil || f.VolumeID != "vol-1" || f.Generation != 7 {
		t.Fatalf("%+v, %v", f, err)
	}
	w.want(t, "mount vol-1", "catch up vol-1 to 7", "report 7 ready=true", "place vol-1", "close vol-1", "ready 7 on vol-1")
}

// `up` on a member that serves, when the pointer has moved on: the same volume, and nobody sees it
// on its way. Without packs it is of no use.
func TestAMountedVolumeThatIsBehindCatchesUp(t *testing.T) {
	for _, packs := range []bool{true, false} {
		w := newWorld(7)
		w.packs = packs
		w.have(adopted, 6)
		w.mounted = "vol-1"
		f, _, err := w.boot(t)
		if err != nil || f.Generation != 7 || (f.VolumeID == "vol-1") != packs || len(w.account) != 1 {
			t.Errorf("packs %v: %+v, %v, account %v", packs, f, err, w.account)
		}
		if packs {
			w.want(t, "unmount vol-1", "mount vol-1", "catch up vol-1 to 7", "report 7 ready=true", "place vol-1", "close vol-1", "ready 7 on vol-1")
		}
	}
}

// What a boot may see at the re-read, from generation 7 on, and what follows for the volume in
// hand.
func TestRereadKeepsTheVolumeAndCatchesUp(t *testing.T) {
	first := []string{"create vol-new1", "attach vol-new1", "protect vol-new1", "mount vol-new1", "report 7 ready=true"}
	ready := []string{"place vol-new1", "close vol-new1"}
	for name, tc := range map[string]struct {
		moves func(w *world, p *boot.Pointer)
		then  []string // effects
		end   error
	}{
		"a newer one": {
			func(w *world, p *boot.Pointer) { *p = pointer(8); p.Document = "8" },
			append([]string{"catch up vol-new1 to 8", "report 8 ready=true"}, append(ready, "ready 8 on vol-new1")...), nil,
		},
		"the same, from another snapshot": {
			func(w *world, p *boot.Pointer) {
				p.Document, p.Snapshot = "7, once more", func(string) (string, error) { return "snap-7b", nil }
			},
			append(slices.Clone(ready), "ready 7 on vol-new1"), nil,
		},
		"an older one": {
			func(w *world, p *boot.Pointer) { *p = pointer(6); p.Document = "6" },
			[]string{"close vol-new1", "report 7 ready=false"}, boot.ErrOlder,
		},
		"one of another store": {
			func(w *world, p *boot.Pointer) { *p = pointer(8); p.Document, p.Store = "8", "another" },
			[]string{"close vol-new1", "mount vol-new1", "catch up vol-new1 to 8", "report 8 ready=true", "place vol-new1", "close vol-new1", "ready 8 on vol-new1"},
			nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(7)
			now := pointer(7)
			now.Document = "7"
			w.pointers.fetch = func(context.Context) (boot.Pointer, error) { return now, nil }
			w.afterReport(func() { tc.moves(w, &now) })
			_, _, err := w.boot(t)
			if !errors.Is(err, tc.end) {
				t.Fatalf("%v, want %v", err, tc.end)
			}
			w.want(t, append(slices.Clone(first), tc.then...)...)
		})
	}
}

// A volume that caught up is verified against the new target, not the old one, and once more after
// each further move.
func TestEachMoveOfThePointerIsVerifiedAnew(t *testing.T) {
	w := newWorld(7)
	w.packs = true
	var checked []int64
	prepare := w.mounts.prepare
	w.mounts.prepare = func(v boot.Volume) (boot.Prepared, error) {
		p, err := prepare(v)
		own := p.(fakePrepared)
		check := own.check
		own.check = func(want boot.Wanted) error {
			checked = append(checked, want.Generation)
			if want.Document != fmt.Sprintf("document %d", want.Generation) {
				t.Errorf("generation %d is wanted with document %q", want.Generation, want.Document)
			}
			return check(want)
		}
		return own, err
	}
	report := w.volumes.report
	w.volumes.report = func(v boot.Volume, r boot.Report) error {
		w.pointer = min(w.pointer+1, 10)
		return report(v, r)
	}
	if f, _, err := w.boot(t); err != nil || f.Generation != 10 || w.made != 1 || !slices.Equal(checked, []int64{7, 8, 9, 10}) {
		t.Fatalf("%+v, %v, %d volumes, checked %v", f, err, w.made, checked)
	}
}

// A pointer that names no way (a plain line, an older publisher) leaves it to verify what the
// volume that was kept is worth.
func TestAVolumeThatWasKeptInVainIsReplaced(t *testing.T) {
	for name, catchUp := range map[string]error{
		"there is no way":       fmt.Errorf("no way: %w", boot.ErrMismatch),
		"nothing could be done": nil,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(7)
			w.packs = true
			w.catchUp = func(_ context.Context, id string, want boot.Wanted) error {
				if w.holds[id] == want.Generation {
					return nil
				}
				return catchUp
			}
			w.afterReport(func() { w.pointer = 8 })
			if f, _, err := w.boot(t); err != nil || f.VolumeID != "vol-new2" || f.Generation != 8 || len(w.account) != 1 {
				t.Fatalf("%+v, %v, account %v", f, err, w.account)
			}
			w.want(t, "create vol-new1", "attach vol-new1", "protect vol-new1", "mount vol-new1", "report 7 ready=true", "close vol-new1", "remove vol-new1",
				"create vol-new2", "attach vol-new2", "protect vol-new2", "mount vol-new2", "report 8 ready=true",
				"place vol-new2", "close vol-new2", "ready 8 on vol-new2")
		})
	}
}

// TestWhatFollowsFromAFailureToCatchUp: whose fault it is decides what becomes of the volume.
func TestWhatFollowsFromAFailureToCatchUp(t *testing.T) {
	const (
		replaced = "replaced" // by another one, which serves
		left     = "left"     // the boot fails, and the next start takes the volume on
		removed  = "removed"  // the boot fails, and the volume is of no use
	)
	network := fmt.Errorf("no answer: %w", boot.ErrStore)
	for _, tc := range []struct {
		name    string
		failure error
		older   bool   // the operator insists
		adopted string // what becomes of a volume of an earlier boot
		fresh   string // and of one of this run
	}{
		{"no way", boot.ErrMismatch, false, replaced, removed},
		{"no way, and the operator insists", boot.ErrMismatch, true, replaced, removed},
		{"it holds something newer", boot.ErrOlder, false, left, removed},
		{"it holds something newer, and the operator insists", boot.ErrOlder, true, replaced, removed},
		{"not signed", boot.ErrUnsigned, false, left, left},
		{"not signed, and the operator insists", boot.ErrUnsigned, true, replaced, left},
		{"a pack is gone, twice", boot.ErrGone, false, left, left},
		{"the store", network, false, left, left},
		{"the store, and the operator insists", network, true, left, left},
		{"nobody knows why", errors.New("too many open files"), false, left, left},
		{"the disk fails", boot.ErrDisk, false, replaced, replaced},
		{"the disk does not answer", context.DeadlineExceeded, false, replaced, replaced},
	} {
		for kind, want := range map[string]string{"adopted": tc.adopted, "fresh": tc.fresh} {
			t.Run(tc.name+", "+kind, func(t *testing.T) {
				w := newWorld(7)
				w.packs, w.parts.Older = true, tc.older
				bad := "vol-new1"
				if kind == "adopted" {
					bad = "vol-1"
					w.have(adopted, 6)
				}
				w.catchUp = func(ctx context.Context, id string, want boot.Wanted) error {
					if id == bad {
						return fmt.Errorf("catch up %s: %w", id, tc.failure)
					}
					return w.byPacks(ctx, id, want)
				}
				f, _, err := w.boot(t)
				gone := slices.Contains(w.effects, "remove "+bad) || slices.Contains(w.effects, "leave "+bad)
				switch failed, _ := errors.AsType[*boot.Error](err); {
				case want == replaced:
					if err != nil || f.VolumeID == bad || !gone {
						t.Errorf("%+v, %v, effects %v", f, err, w.effects)
					}
				case failed == nil || failed.Stage != boot.StageCatchUp || !errors.Is(err, tc.failure) || strings.Count(err.Error(), "Try: ") != 1:
					t.Errorf("%+v, %v", f, err)
				case gone != (want == removed) || len(w.account) > 1 || w.mounted != "":
					t.Errorf("want it %s; mounted %q, effects %v", want, w.mounted, w.effects)
				}
				if unseen := tc.failure == boot.ErrDisk || tc.failure == context.DeadlineExceeded; unseen && slices.Contains(w.effects, "remove "+bad) {
					t.Errorf("a volume that nobody could look into was deleted: %v", w.effects)
				}
			})
		}
	}
}

// Where the pointer's snapshot holds its release, a volume that is made from it needs no pack.
func TestAVolumeWhosePacksCannotBeHadIsReplacedFromTheSnapshot(t *testing.T) {
	for _, failure := range []error{boot.ErrGone, boot.ErrStore} {
		w := newWorld(7)
		w.packs, w.exact = true, true
		w.have(adopted, 6)
		w.catchUp = func(_ context.Context, id string, want boot.Wanted) error {
			if w.holds[id] == want.Generation {
				return nil
			}
			return fmt.Errorf("catch up: %w", failure)
		}
		f, took, err := w.boot(t)
		if err != nil || f.VolumeID != "vol-new1" || f.Generation != 7 || len(w.account) != 1 || took > time.Minute {
			t.Errorf("%v: %+v, %v after %v, account %v", failure, f, err, took, w.account)
		}
	}
}

// Whatever snapshot there is: nothing is destroyed on a guess.
func TestAVolumeOfWhichNobodyKnowsWhyStays(t *testing.T) {
	w := newWorld(7)
	w.packs, w.exact = true, true
	w.have(adopted, 6)
	w.catchUp = func(context.Context, string, boot.Wanted) error { return errors.New("too many open files") }
	if _, _, err := w.boot(t); err == nil || len(w.account) != 1 || w.holds["vol-1"] != 6 {
		t.Fatalf("error = %v, account %v", err, w.account)
	}
}

// A killed boot did not protect the volume, and this one cannot say what is wrong: it stays.
func TestAVolumeThatTheStoreDoesNotAnswerForStays(t *testing.T) {
	w := newWorld(7)
	w.packs = true // and the snapshot is behind
	loose := adopted
	loose.Protected = false
	w.have(loose, 6)
	w.volumes.protect = func(ctx context.Context, _ boot.Volume) error { <-ctx.Done(); return ctx.Err() }
	w.catchUp = func(context.Context, string, boot.Wanted) error { return errors.New("the store does not answer") }
	if _, _, err := w.boot(t); err == nil || len(w.account) != 1 || w.holds["vol-1"] != 6 {
		t.Fatalf("error = %v, account %v", err, w.account)
	}
}

func TestAPackThatIsGoneIsLookedForInThePointerOnce(t *testing.T) {
	for name, have := range map[string][]boot.Volume{"fresh": nil, "adopted": {adopted}} {
		for _, again := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, gone again: %v", name, again), func(t *testing.T) {
				w := newWorld(7)
				w.packs = true
				for _, v := range have {
					w.have(v, 6)
				}
				tries := 0
				w.catchUp = func(ctx context.Context, id string, want boot.Wanted) error {
					if tries++; tries == 1 || again {
						w.pointer = 8
						return fmt.Errorf("get packs/a-b: %w", boot.ErrGone)
					}
					return w.byPacks(ctx, id, want)
				}
				f, took, err := w.boot(t)
				if !again && (err != nil || f.Generation != 8 || len(w.account) != 1 || w.made+len(have) != 1) {
					t.Errorf("%+v, %v, account %v", f, err, w.account)
				}
				if again && (!errors.Is(err, boot.ErrGone) || tries != 2 || took > time.Minute || len(w.account) != 1) {
					t.Errorf("%v after %d tries, account %v", err, tries, w.account)
				}
			})
		}
	}
}

// A volume that was good for one pointer is not given up, or reported, for one that nobody trusted
// has signed.
func TestAnUnsignedPointerAtTheRereadTouchesNothing(t *testing.T) {
	w := newWorld(7)
	w.packs = true
	w.catchUp = func(_ context.Context, _ string, want boot.Wanted) error {
		if want.Generation > 7 {
			return boot.ErrUnsigned
		}
		return nil
	}
	w.afterReport(func() { w.pointer = 99 })
	_, _, err := w.boot(t)
	if !errors.Is(err, boot.ErrUnsigned) || !strings.HasPrefix(err.Error(), "catch up: ") || w.mounted != "" {
		t.Fatalf("error = %v, mounted %q", err, w.mounted)
	}
	w.want(t, "create vol-new1", "attach vol-new1", "protect vol-new1", "mount vol-new1", "report 7 ready=true", "close vol-new1", "report 7 ready=false")
}

// A pointer may say anything of its store. The volume of another one goes only when it believes
// that pointer.
func TestAPointerOfAnotherStoreTouchesNoVolumeThatDoesNotBelieveIt(t *testing.T) {
	for name, tc := range map[string]struct {
		says error // of the volume
		end  error
		gone bool
	}{
		"nobody trusted signed it":     {boot.ErrUnsigned, boot.ErrUnsigned, false},
		"it is believed, and mismatch": {boot.ErrMismatch, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(7)
			w.packs = true
			w.have(adopted, 6)
			v := w.account["vol-1"]
			v.Store = "mine"
			w.account["vol-1"] = v
			fetch := w.pointers.fetch
			w.pointers.fetch = func(ctx context.Context) (boot.Pointer, error) {
				p, err := fetch(ctx)
				p.Store = "another"
				return p, err
			}
			w.catchUp = func(ctx context.Context, id string, want boot.Wanted) error {
				if id == "vol-1" {
					return tc.says
				}
				return w.byPacks(ctx, id, want)
			}
			_, _, err := w.boot(t)
			if !errors.Is(err, tc.end) || slices.Contains(w.effects, "remove vol-1") != tc.gone {
				t.Errorf("%v, effects %v", err, w.effects)
			}
		})
	}
}

// What is served is given up only when the packs can be had that lead on.
func TestAServedMountStaysUntilItsPacksCanBeHad(t *testing.T) {
	for _, tc := range []struct {
		reach error
		asks  int // the pointer, before it ends
		stays bool
	}{
		{nil, 2, false},
		{boot.ErrMismatch, 2, false}, // no way leads on from it: another volume may do
		{boot.ErrStore, 1, true},
		{errors.New("too many open files"), 1, true},
		{boot.ErrGone, 2, true}, // asked once more
	} {
		w := newWorld(7)
		w.packs = true
		w.have(adopted, 6)
		w.mounted = "vol-1"
		look, fetch, asked := w.mounts.look, w.pointers.fetch, 0
		w.mounts.look = func(mine []boot.Volume) (*boot.Mounted, error) {
			mounted, err := look(mine)
			if mounted != nil {
				tree := w.tree("vol-1")
				tree.reach = func(boot.Wanted) error { return tc.reach }
				mounted.Tree = tree
			}
			return mounted, err
		}
		w.pointers.fetch = func(ctx context.Context) (boot.Pointer, error) { asked++; return fetch(ctx) }
		_, _, err := w.boot(t)
		unmounted := slices.Contains(w.effects, "unmount vol-1")
		if unmounted == tc.stays || (err != nil) != tc.stays || asked != tc.asks || len(w.account) != 1 {
			t.Errorf("%v: %v, asked %d times, effects %v", tc.reach, err, asked, w.effects)
		}
		if tc.stays && (!errors.Is(err, tc.reach) || !strings.Contains(err.Error(), "it stays mounted") || strings.Count(err.Error(), "Try: ") != 1 || w.mounted != "vol-1") {
			t.Errorf("%v: it says %v; mounted %q", tc.reach, err, w.mounted)
		}
	}
}

func TestAServedMountIsNotTouchedForAnUnsignedPointer(t *testing.T) {
	for _, tc := range []struct {
		generation int64
		older      bool
	}{{7, false}, {7, true}, {0, false}} { // 0: a plain line
		older := tc.older
		w := newWorld(tc.generation)
		w.parts.Older = older
		w.have(adopted, 6)
		w.mounted = "vol-1"
		look := w.mounts.look
		w.mounts.look = func(mine []boot.Volume) (*boot.Mounted, error) {
			mounted, err := look(mine)
			if mounted != nil {
				tree := w.tree("vol-1")
				tree.check = func(boot.Wanted) error { return boot.ErrUnsigned }
				mounted.Tree = tree
			}
			return mounted, err
		}
		f, _, err := w.boot(t)
		if older {
			if err != nil || f.VolumeID != "vol-new1" || w.effects[0] != "unmount vol-1" || w.effects[1] != "remove vol-1" {
				t.Errorf("the operator insists: %+v, %v, %v", f, err, w.effects)
			}
			continue
		}
		if !errors.Is(err, boot.ErrUnsigned) || !strings.HasPrefix(err.Error(), "adopt: ") || strings.Count(err.Error(), "Try: ") != 1 || w.mounted != "vol-1" {
			t.Errorf("error = %v, mounted %q", err, w.mounted)
		}
		w.want(t)
	}
}
