package boot_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"ebs-release/internal/boot"
)

// brings has EC2 attach volumes with the launch.
func (w *world) brings(all ...boot.Found) {
	w.packs = true
	for i := range all {
		v := &all[i].Volume
		v.Attached, v.Protected, v.Brought, v.Store = true, true, true, "store"
		w.holds[v.ID] = all[i].Generation
	}
	w.disks.brought = func(boot.Wanted) ([]boot.Found, error) { return slices.Clone(all), nil }
}

// silent makes whatever is asked of EC2 but a report an error of the test.
func (w *world) silent(t *testing.T) {
	t.Helper()
	called := func(what string) { t.Helper(); t.Errorf("EC2 was asked: %s", what) }
	w.volumes.mine = func() ([]boot.Volume, error) { called("mine"); return nil, nil }
	w.volumes.newest = func(context.Context, string) (int64, string, error) { called("newest"); return 0, "", nil }
	w.volumes.create = func(context.Context, boot.Wanted) (boot.Volume, error) { called("create"); return boot.Volume{}, nil }
	w.volumes.attach = func(_ context.Context, v boot.Volume, _ []string) (boot.Volume, error) {
		called("attach")
		return v, nil
	}
	w.volumes.protect = func(context.Context, boot.Volume) error { called("protect"); return nil }
	w.volumes.remove = func(boot.Volume) error { called("remove"); return nil }
	w.volumes.leave = func(boot.Volume) error { called("leave"); return nil }
}

func found(id string, generation int64) boot.Found {
	return boot.Found{Volume: boot.Volume{ID: id}, Generation: generation}
}

func served(id string, generation int64) boot.Found {
	f := found(id, generation)
	f.Served = true
	return f
}

func (w *world) bootsOn(t *testing.T, id string) {
	t.Helper()
	f, _, err := w.boot(t)
	if err != nil || f.VolumeID != id || f.Brought != strings.HasPrefix(id, "vol-b") {
		t.Errorf("it boots on %s (brought %v), %v; want %s", f.VolumeID, f.Brought, err, id)
	}
	for _, v := range w.account {
		if strings.HasPrefix(v.ID, "vol-b") {
			t.Errorf("%s was claimed", v.ID)
		}
	}
}

func TestBroughtVolumeIsServedWithoutACall(t *testing.T) {
	for name, tc := range map[string]struct {
		has  boot.Found
		does []string
	}{
		"the release": {found("vol-b", 7), nil},
		"packs lead":  {found("vol-b", 5), []string{"catch up vol-b to 7"}},
		"a reboot":    {served("vol-b", 7), nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(7)
			w.brings(tc.has)
			w.silent(t)
			w.bootsOn(t, "vol-b")
			want := append([]string{"mount vol-b"}, tc.does...)
			w.want(t, append(want, "report 7 ready=true", "place vol-b", "close vol-b", "ready 7 on vol-b")...)
			if got := strings.Join(w.stages, " "); !strings.Contains(got, "create (skipped) look for newer (skipped) attach (skipped) protect (skipped)") {
				t.Errorf("stages = %s", got)
			}
		})
	}
}

func TestBestOfTheBroughtIsServed(t *testing.T) {
	w := newWorld(7)
	w.brings(found("vol-b1", 4), found("vol-b2", 6), found("vol-b3", 8), found("vol-b4", 6))
	w.silent(t)
	w.bootsOn(t, "vol-b2")
}

// The others come next, and in the end one that is made.
func TestBroughtVolumeOfNoUseIsLeftAlone(t *testing.T) {
	w := newWorld(7)
	w.brings(found("vol-b1", 4), found("vol-b2", 6))
	bad := map[string]bool{"vol-b2": true}
	w.catchUp = func(ctx context.Context, id string, want boot.Wanted) error {
		if bad[id] {
			return fmt.Errorf("no way: %w", boot.ErrMismatch)
		}
		return w.byPacks(ctx, id, want)
	}
	w.bootsOn(t, "vol-b1")
	bad["vol-b1"], w.mounted = true, ""
	w.bootsOn(t, "vol-new1")
	if slices.ContainsFunc(w.effects, func(e string) bool { return strings.Contains(e, "remove") || strings.Contains(e, "leave") }) {
		t.Errorf("effects %q", w.effects)
	}
}

func TestBroughtVolumeThatDoesNotSuit(t *testing.T) {
	for name, why := range map[string]error{
		"another store": boot.ErrMismatch, "unsigned": boot.ErrUnsigned, "unreadable": errors.New("bad superblock"), "newer than the pointer": boot.ErrOlder,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(7)
			f := found("vol-b", 7)
			if f.Unfit = fmt.Errorf("why: %w", why); errors.Is(why, boot.ErrOlder) {
				f = found("vol-b", 8)
			}
			w.brings(f)
			w.bootsOn(t, "vol-new1")
		})
	}
}

func TestNoFailureOfABroughtVolumeEndsTheBoot(t *testing.T) {
	bad := errors.New("bad disk")
	for name, breaks := range map[string]func(w *world){
		"find": func(w *world) {
			find := w.disks.find
			w.disks.find = func(ctx context.Context, v boot.Volume) (boot.Disk, error) {
				if v.Brought {
					return boot.Disk{}, bad
				}
				return find(ctx, v)
			}
		},
		"check": func(w *world) {
			w.disks.check = func(d boot.Disk) (boot.Disk, error) {
				if d.Kind = "ext4"; strings.HasSuffix(d.Path, "vol-b") {
					return d, bad
				}
				return d, nil
			}
		},
		"mount": func(w *world) {
			prepare := w.mounts.prepare
			w.mounts.prepare = func(v boot.Volume) (boot.Prepared, error) {
				if v.Brought {
					return nil, bad
				}
				return prepare(v)
			}
		},
		"catch up: its disk": func(w *world) {
			w.catchUp = func(ctx context.Context, id string, want boot.Wanted) error {
				if id == "vol-b" {
					return fmt.Errorf("read: %w", boot.ErrDisk)
				}
				return w.byPacks(ctx, id, want)
			}
		},
		"catch up: the store, and the snapshot needs no pack": func(w *world) {
			w.exact = true
			w.catchUp = func(ctx context.Context, id string, want boot.Wanted) error {
				if id == "vol-b" {
					return fmt.Errorf("get: %w", boot.ErrStore)
				}
				return w.byPacks(ctx, id, want)
			}
		},
		"report: not allowed": func(w *world) {
			report := w.volumes.report
			w.volumes.report = func(v boot.Volume, r boot.Report) error {
				if v.Brought {
					return fmt.Errorf("tag: %w", boot.ErrDenied)
				}
				return report(v, r)
			}
		},
		"the look": func(w *world) {
			w.disks.brought = func(boot.Wanted) ([]boot.Found, error) { return nil, bad }
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(7)
			w.brings(found("vol-b", 6))
			breaks(w)
			w.bootsOn(t, "vol-new1")
		})
	}
}

// A disk that does not answer hides none that does. It may have served: so EC2 is asked what the
// fence of that disk would say.
func TestBroughtVolumeBesideADiskThatDoesNotAnswer(t *testing.T) {
	for name, newest := range map[string]int64{"the pointer is the newest": 7, "the pointer is an old one": 8} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(7)
			w.brings(found("vol-b", 7))
			look := w.disks.brought
			w.disks.brought = func(want boot.Wanted) ([]boot.Found, error) {
				all, _ := look(want)
				return all, errors.New("vol-a does not answer")
			}
			w.volumes.newest = func(context.Context, string) (int64, string, error) { return newest, "snap-8", nil }
			if newest == 7 {
				w.bootsOn(t, "vol-b")
				return
			}
			if _, _, err := w.boot(t); !errors.Is(err, boot.ErrOlder) || w.mounted != "" {
				t.Errorf("got %v, and %q is mounted", err, w.mounted)
			}
		})
	}
}

func TestStoreThatIsAwayIsNoFaultOfABroughtVolume(t *testing.T) {
	w := newWorld(7)
	w.brings(found("vol-b", 6))
	w.silent(t)
	w.catchUp = func(context.Context, string, boot.Wanted) error { return fmt.Errorf("get: %w", boot.ErrStore) }
	if _, _, err := w.boot(t); !errors.Is(err, boot.ErrStore) {
		t.Errorf("got %v, want that the store is away: one from the snapshot needs packs, too", err)
	}
}

// What has served here has a fence that counts, whoever made the volume.
func TestBroughtVolumeThatHasServedKeepsItsFence(t *testing.T) {
	for name, f := range map[string]boot.Found{"older": served("vol-b", 8), "unsigned": served("vol-b", 7)} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(7)
			want := boot.ErrOlder
			if name == "unsigned" {
				want = boot.ErrUnsigned
				f.Unfit = fmt.Errorf("why: %w", want)
			}
			w.brings(f)
			w.silent(t)
			if _, _, err := w.boot(t); !errors.Is(err, want) || len(w.effects) > 0 {
				t.Errorf("got %v after %q, want %v", err, w.effects, want)
			}
		})
	}
}

func TestOlderTakesABroughtVolumeOutOfUse(t *testing.T) {
	w := newWorld(7)
	w.brings(served("vol-b", 8))
	w.parts.Older, w.mounted = true, "vol-b"
	var above int64
	report := w.volumes.report
	w.volumes.report = func(v boot.Volume, r boot.Report) error {
		above = r.Above
		return report(v, r)
	}
	w.bootsOn(t, "vol-new1")
	if above != 8 || w.effects[0] != "unmount vol-b" {
		t.Errorf("reports of generation %d are taken back, after %q", above, w.effects)
	}
}

func TestOwnVolumeGoesBeforeABroughtOne(t *testing.T) {
	w := newWorld(7)
	mine := found("vol-1", 7)
	mine.Made = true
	w.brings(found("vol-b", 7), mine)
	w.have(boot.Volume{ID: "vol-1", SnapshotID: "snap-7", Attached: true, Protected: true, Store: "store"}, 7)
	w.bootsOn(t, "vol-1")
}

func TestBroughtVolumeThatServesIsBroughtToWhatIsWanted(t *testing.T) {
	w := newWorld(7)
	w.brings(served("vol-b", 7))
	w.silent(t)
	w.mounted = "vol-b"
	w.bootsOn(t, "vol-b")
	w.want(t, "report 7 ready=true", "ready 7 on vol-b")
	w.effects, w.pointer = nil, 9
	w.bootsOn(t, "vol-b")
	w.want(t, "unmount vol-b", "mount vol-b", "catch up vol-b to 9", "report 9 ready=true", "place vol-b", "close vol-b", "ready 9 on vol-b")
}

func TestPointerThatMovesBringsABroughtVolumeFurther(t *testing.T) {
	w := newWorld(7)
	w.brings(found("vol-b", 7))
	w.silent(t)
	w.volumes.report = func(_ boot.Volume, r boot.Report) error {
		w.pointer = 8
		w.did("report %d", r.Generation)
		return nil
	}
	w.bootsOn(t, "vol-b")
	w.want(t, "mount vol-b", "report 7", "catch up vol-b to 8", "report 8", "place vol-b", "close vol-b", "ready 8 on vol-b")
}

func TestBroughtVolumeOfABootThatFailsStays(t *testing.T) {
	w := newWorld(7)
	w.brings(found("vol-b", 7))
	w.silent(t)
	w.gate.open = func(boot.Facts) error { return errors.New("systemd is away") }
	if _, _, err := w.boot(t); err == nil {
		t.Fatal("it did not fail")
	}
	if want := "report 7 ready=false"; !slices.Contains(w.effects, want) || w.mounted != "" {
		t.Errorf("effects %q, mounted %q; want %q", w.effects, w.mounted, want)
	}
}
