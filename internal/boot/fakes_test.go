package boot_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/boot"
)

// Parts as functions; calling one that is nil panics.
type (
	fakeInstance struct {
		identify func(context.Context) (boot.Identity, error)
		hostKey  func() (string, error)
		warmed   func() (bool, error)
	}
	fakePointers struct {
		fetch func(context.Context) (boot.Pointer, error)
	}
	fakeVolumes struct {
		mine    func() ([]boot.Volume, error)
		create  func(context.Context, boot.Wanted) (boot.Volume, error)
		attach  func(context.Context, boot.Volume, []string) (boot.Volume, error)
		protect func(context.Context, boot.Volume) error
		remove  func(boot.Volume) error
		leave   func(boot.Volume) error
		report  func(boot.Volume, boot.Report) error
		newest  func(ctx context.Context, store string) (int64, string, error)
	}
	fakeDisks struct {
		find   func(context.Context, boot.Volume) (boot.Disk, error)
		check  func(boot.Disk) (boot.Disk, error)
		unused func(boot.Volume) error
		here   func(boot.Volume) (bool, error)

		brought func(boot.Wanted) ([]boot.Found, error)
	}
	fakeMounts struct {
		look    func([]boot.Volume) (*boot.Mounted, error)
		prepare func(boot.Volume) (boot.Prepared, error)
		unmount func() error
		visible func() error
	}
	fakePrepared struct {
		fakeTree
		drained bool
		catchUp func(context.Context, boot.Wanted) error
		place   func() error
		close   func() error
	}
	fakeTree struct {
		reach   func(boot.Wanted) error // nil: all is in reach
		check   func(boot.Wanted) error
		holding func() (int64, string)
		pending bool
	}
	fakeGate struct {
		open func(boot.Facts) error
	}
)

func (f fakeInstance) Identify(ctx context.Context) (boot.Identity, error) { return f.identify(ctx) }
func (f fakeInstance) HostKey(context.Context) (string, error)             { return f.hostKey() }
func (f fakeInstance) Warmed(context.Context) (bool, error) {
	if f.warmed == nil {
		return false, nil
	}
	return f.warmed()
}
func (f fakePointers) Fetch(ctx context.Context) (boot.Pointer, error) { return f.fetch(ctx) }
func (f fakeVolumes) Mine(context.Context, boot.Identity) ([]boot.Volume, error) {
	return f.mine()
}
func (f fakeVolumes) Create(ctx context.Context, _ boot.Identity, w boot.Wanted) (boot.Volume, error) {
	return f.create(ctx, w)
}
func (f fakeVolumes) Attach(ctx context.Context, _ boot.Identity, v boot.Volume, skip []string) (boot.Volume, error) {
	return f.attach(ctx, v, skip)
}
func (f fakeVolumes) Protect(ctx context.Context, _ boot.Identity, v boot.Volume) error {
	return f.protect(ctx, v)
}
func (f fakeVolumes) Remove(_ context.Context, _ boot.Identity, v boot.Volume) error {
	return f.remove(v)
}
func (f fakeVolumes) Leave(_ context.Context, _ boot.Identity, v boot.Volume) error {
	return f.leave(v)
}
func (f fakeVolumes) Report(_ context.Context, v boot.Volume, r boot.Report) error {
	return f.report(v, r)
}
func (f fakeVolumes) Newest(ctx context.Context, store string) (int64, string, error) {
	return f.newest(ctx, store)
}
func (f fakeDisks) Find(ctx context.Context, v boot.Volume) (boot.Disk, error) { return f.find(ctx, v) }
func (f fakeDisks) Check(_ context.Context, d boot.Disk) (boot.Disk, error)    { return f.check(d) }
func (f fakeDisks) Here(_ context.Context, v boot.Volume) (bool, error)        { return f.here(v) }
func (f fakeDisks) Brought(_ context.Context, w boot.Wanted) ([]boot.Found, error) {
	return f.brought(w)
}
func (f fakeDisks) Unused(_ context.Context, v boot.Volume) error { return f.unused(v) }
func (f fakeMounts) Look(_ context.Context, mine []boot.Volume) (*boot.Mounted, error) {
	return f.look(mine)
}
func (f fakeMounts) Prepare(_ context.Context, v boot.Volume, _ boot.Disk) (boot.Prepared, error) {
	return f.prepare(v)
}
func (f fakeMounts) Unmount(context.Context) error                         { return f.unmount() }
func (f fakeMounts) Visible(context.Context, boot.Volume, boot.Disk) error { return f.visible() }
func (f fakePrepared) CatchUp(ctx context.Context, w boot.Wanted) error {
	return f.catchUp(ctx, w)
}
func (f fakePrepared) Holding(context.Context) (int64, string, bool) {
	generation, release := f.holding()
	return generation, release, !f.drained
}
func (f fakePrepared) Place(context.Context) error { return f.place() }
func (f fakePrepared) Close(context.Context) error { return f.close() }
func (f fakeTree) InReach(_ context.Context, w boot.Wanted) error {
	if f.reach == nil {
		return nil
	}
	return f.reach(w)
}
func (f fakeTree) Check(_ context.Context, w boot.Wanted) error { return f.check(w) }
func (f fakeTree) Holding(context.Context) (int64, string, bool) {
	generation, release := f.holding()
	return generation, release, !f.pending
}
func (f fakeGate) Open(_ context.Context, x boot.Facts) error { return f.open(x) }

// world is an instance and an account of which everything works, as long as a test does not change
// a function.
type world struct {
	parts    boot.Parts
	instance *fakeInstance
	pointers *fakePointers
	volumes  *fakeVolumes
	disks    *fakeDisks
	mounts   *fakeMounts
	gate     *fakeGate
	mu       sync.Mutex
	effects  []string               // what was done to the world, in order
	stages   []string               // as told to Progress
	account  map[string]boot.Volume // the volumes in EC2
	holds    map[string]int64       // volume -> the generation in it
	mounted  string                 // the volume at the mount point
	pending  bool                   // the programs of an activation have not succeeded on any volume
	drained  bool                   // a program took the application out of service before the boot
	pointer  int64                  // the generation that the pointer names
	packs    bool                   // the pointer is a document that knows a way from every release to its own
	exact    bool                   // the pointer's snapshot holds its release
	catchUp  func(context.Context, string, boot.Wanted) error
	made     int // volumes
}

const hostKey = "ssh-ed25519 AAAA"

func (w *world) did(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.effects = append(w.effects, fmt.Sprintf(format, args...))
}

func (w *world) Started(stage string, _ boot.Facts) { w.stages = append(w.stages, stage) }

func (w *world) Ended(stage string, _ time.Duration, skipped bool, err error) {
	if skipped {
		w.stages[slices.Index(w.stages, stage)] += " (skipped)"
	}
	if err != nil {
		w.stages = append(w.stages, stage+" failed")
	}
}

func snapshot(generation int64) string { return fmt.Sprintf("snap-%d", generation) }

func pointer(generation int64) boot.Pointer {
	return boot.Pointer{
		Generation: generation, Release: fmt.Sprintf("release-%d", generation), Digest: "digest",
		Snapshot: func(region string) (string, error) {
			if region != "eu-west-1" {
				return "", errors.New("the pointer has no snapshot for " + region)
			}
			return snapshot(generation), nil
		},
	}
}

func newWorld(generation int64) *world {
	w := &world{
		instance: &fakeInstance{}, pointers: &fakePointers{}, volumes: &fakeVolumes{}, disks: &fakeDisks{}, mounts: &fakeMounts{}, gate: &fakeGate{},
		account: map[string]boot.Volume{}, holds: map[string]int64{}, pointer: generation,
	}
	w.parts = boot.Parts{Instance: w.instance, Pointers: w.pointers, Volumes: w.volumes, Disks: w.disks, Mounts: w.mounts, Gate: w.gate}
	w.instance.identify = func(context.Context) (boot.Identity, error) {
		return boot.Identity{InstanceID: "i-me", Zone: "eu-west-1b", Region: "eu-west-1"}, nil
	}
	w.instance.hostKey = func() (string, error) { return hostKey, nil }
	w.pointers.fetch = func(context.Context) (boot.Pointer, error) {
		p := pointer(w.pointer)
		if w.packs {
			p.Store, p.Document, p.Behind = "store", fmt.Sprintf("document %d", w.pointer), !w.exact
		}
		return p, nil
	}
	w.catchUp = w.byPacks
	w.ec2()
	w.machine()
	w.gate.open = func(f boot.Facts) error {
		w.did("ready %d on %s", f.Generation, f.VolumeID)
		return nil
	}
	return w
}

func (w *world) ec2() {
	w.volumes.mine = func() ([]boot.Volume, error) {
		var mine []boot.Volume
		for _, v := range w.account {
			mine = append(mine, v)
		}
		slices.SortFunc(mine, func(a, b boot.Volume) int { return strings.Compare(a.ID, b.ID) })
		return mine, nil
	}
	w.volumes.create = func(_ context.Context, want boot.Wanted) (boot.Volume, error) {
		w.made++
		v := boot.Volume{ID: fmt.Sprintf("vol-new%d", w.made), SnapshotID: want.SnapshotID}
		w.account[v.ID], w.holds[v.ID] = v, want.Generation
		w.did("create %s", v.ID)
		return v, nil
	}
	w.volumes.attach = func(_ context.Context, v boot.Volume, skip []string) (boot.Volume, error) {
		v.Attached, v.Device = true, fmt.Sprintf("/dev/xvda%c", 'a'+len(skip))
		w.account[v.ID] = v
		w.did("attach %s", v.ID)
		return v, nil
	}
	w.volumes.protect = func(_ context.Context, v boot.Volume) error {
		w.did("protect %s", v.ID)
		v.Protected = true
		w.account[v.ID] = v
		return nil
	}
	w.volumes.remove = func(v boot.Volume) error {
		if w.mounted == v.ID {
			return errors.New("removing a mounted volume")
		}
		delete(w.account, v.ID)
		w.did("remove %s", v.ID)
		return nil
	}
	w.volumes.leave = func(v boot.Volume) error {
		w.did("leave %s", v.ID)
		return nil
	}
	w.volumes.newest = func(context.Context, string) (int64, string, error) { return 0, "", nil }
	w.volumes.report = func(v boot.Volume, r boot.Report) error {
		w.did("report %d ready=%v", r.Generation, r.Ready)
		return nil
	}
}

func (w *world) machine() {
	w.disks.find = func(_ context.Context, v boot.Volume) (boot.Disk, error) {
		return boot.Disk{Path: "/dev/disk-of-" + v.ID}, nil
	}
	w.disks.check = func(d boot.Disk) (boot.Disk, error) {
		d.Kind = "ext4"
		return d, nil
	}
	w.disks.brought = func(boot.Wanted) ([]boot.Found, error) { return nil, nil }
	w.disks.unused = func(boot.Volume) error { return nil }
	w.disks.here = func(boot.Volume) (bool, error) { return false, nil }
	w.mounts.look = func([]boot.Volume) (*boot.Mounted, error) {
		if w.mounted == "" {
			return nil, nil
		}
		return &boot.Mounted{VolumeID: w.mounted, Disk: boot.Disk{Path: "/dev/x", Kind: "ext4"}, What: "/dev/x", Tree: w.tree(w.mounted)}, nil
	}
	w.mounts.prepare = func(v boot.Volume) (boot.Prepared, error) {
		synctest.Wait() // protect runs beside it: let it be first, so that the order of effects is one
		w.did("mount %s", v.ID)
		return fakePrepared{
			fakeTree: w.tree(v.ID),
			drained:  w.drained,
			catchUp:  func(ctx context.Context, want boot.Wanted) error { return w.catchUp(ctx, v.ID, want) },
			place: func() error {
				w.mounted = v.ID
				w.did("place %s", v.ID)
				return nil
			},
			close: func() error {
				w.did("close %s", v.ID)
				return nil
			},
		}, nil
	}
	w.mounts.unmount = func() error {
		w.did("unmount %s", w.mounted)
		w.mounted = ""
		return nil
	}
	w.mounts.visible = func() error { return nil }
}

// byPacks brings a volume to what is wanted, where the pointer knows a way.
func (w *world) byPacks(_ context.Context, id string, want boot.Wanted) error {
	switch {
	case want.Document == "" || w.holds[id] == want.Generation:
		return nil
	case w.holds[id] > want.Generation:
		return fmt.Errorf("it holds generation %d, not %d: %w", w.holds[id], want.Generation, boot.ErrOlder)
	}
	w.holds[id] = want.Generation
	w.did("catch up %s to %d", id, want.Generation)
	return nil
}

func (w *world) tree(id string) fakeTree {
	return fakeTree{
		pending: w.pending,
		check: func(want boot.Wanted) error {
			if want.Generation == 0 { // a plain line
				return nil
			}
			if w.holds[id] > want.Generation {
				return fmt.Errorf("it holds generation %d, not %d: %w", w.holds[id], want.Generation, boot.ErrOlder)
			}
			if w.holds[id] != want.Generation {
				return fmt.Errorf("%w: it holds generation %d, not %d", boot.ErrMismatch, w.holds[id], want.Generation)
			}
			return nil
		},
		holding: func() (int64, string) { return w.holds[id], fmt.Sprintf("release-%d", w.holds[id]) },
	}
}

// have puts a volume of an earlier boot into the account.
func (w *world) have(v boot.Volume, generation int64) {
	w.account[v.ID], w.holds[v.ID] = v, generation
}

// boot runs it in made-up time, with the usual deadline.
func (w *world) boot(t *testing.T) (f boot.Facts, took time.Duration, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
		defer cancel()
		started := time.Now()
		f, err = boot.Run(ctx, w.parts, w, slog.New(slog.DiscardHandler))
		took = time.Since(started)
	})
	return f, took, err
}

// want compares the effects, those that stages side by side have in any order left out by the
// caller.
func (w *world) want(t *testing.T, effects ...string) {
	t.Helper()
	if !slices.Equal(w.effects, effects) {
		t.Errorf("effects:\n  %s\nwant:\n  %s", strings.Join(w.effects, "\n  "), strings.Join(effects, "\n  "))
	}
}
