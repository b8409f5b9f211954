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

// hanging is the parts of a world in which one call, the at-th from 1, does not answer before its
// ctx ends.
type hanging struct {
	*world
	at int

	mu    sync.Mutex
	calls []string
}

func (h *hanging) here(ctx context.Context, call string) error {
	h.mu.Lock()
	h.calls = append(h.calls, call)
	hangs := len(h.calls) == h.at
	h.mu.Unlock()
	if !hangs {
		return nil
	}
	<-ctx.Done()
	return fmt.Errorf("%s does not answer: %w", call, ctx.Err())
}

func (h *hanging) Identify(ctx context.Context) (boot.Identity, error) {
	if err := h.here(ctx, "identify"); err != nil {
		return boot.Identity{}, err
	}
	return h.instance.Identify(ctx)
}

func (h *hanging) Warmed(ctx context.Context) (bool, error) {
	if err := h.here(ctx, "warmed"); err != nil {
		return false, err
	}
	return h.instance.Warmed(ctx)
}

func (h *hanging) HostKey(ctx context.Context) (string, error) {
	if err := h.here(ctx, "host key"); err != nil {
		return "", err
	}
	return h.instance.HostKey(ctx)
}

func (h *hanging) Fetch(ctx context.Context) (boot.Pointer, error) {
	if err := h.here(ctx, "fetch"); err != nil {
		return boot.Pointer{}, err
	}
	return h.pointers.Fetch(ctx)
}

func (h *hanging) Mine(ctx context.Context, me boot.Identity) ([]boot.Volume, error) {
	if err := h.here(ctx, "mine"); err != nil {
		return nil, err
	}
	return h.volumes.Mine(ctx, me)
}

func (h *hanging) Create(ctx context.Context, me boot.Identity, want boot.Wanted) (boot.Volume, error) {
	if err := h.here(ctx, "create"); err != nil {
		return boot.Volume{}, err
	}
	return h.volumes.Create(ctx, me, want)
}

func (h *hanging) Attach(ctx context.Context, me boot.Identity, v boot.Volume, skip []string) (boot.Volume, error) {
	if err := h.here(ctx, "attach"); err != nil {
		return v, err
	}
	return h.volumes.Attach(ctx, me, v, skip)
}

func (h *hanging) Protect(ctx context.Context, me boot.Identity, v boot.Volume) error {
	if err := h.here(ctx, "protect"); err != nil {
		return err
	}
	return h.volumes.Protect(ctx, me, v)
}

func (h *hanging) Remove(ctx context.Context, me boot.Identity, v boot.Volume) error {
	if err := h.here(ctx, "remove"); err != nil {
		return err
	}
	return h.volumes.Remove(ctx, me, v)
}

func (h *hanging) Leave(ctx context.Context, me boot.Identity, v boot.Volume) error {
	if err := h.here(ctx, "leave"); err != nil {
		return err
	}
	return h.volumes.Leave(ctx, me, v)
}

func (h *hanging) Report(ctx context.Context, v boot.Volume, r boot.Report) error {
	if err := h.here(ctx, "report"); err != nil {
		return err
	}
	return h.volumes.Report(ctx, v, r)
}

func (h *hanging) Newest(ctx context.Context, store string) (int64, string, error) {
	if err := h.here(ctx, "newest"); err != nil {
		return 0, "", err
	}
	return h.volumes.Newest(ctx, store)
}

func (h *hanging) Find(ctx context.Context, v boot.Volume) (boot.Disk, error) {
	if err := h.here(ctx, "find"); err != nil {
		return boot.Disk{}, err
	}
	return h.disks.Find(ctx, v)
}

func (h *hanging) Check(ctx context.Context, d boot.Disk) (boot.Disk, error) {
	if err := h.here(ctx, "check"); err != nil {
		return d, err
	}
	return h.disks.Check(ctx, d)
}

func (h *hanging) Here(ctx context.Context, v boot.Volume) (bool, error) {
	if err := h.here(ctx, "here"); err != nil {
		return false, err
	}
	return h.disks.Here(ctx, v)
}

func (h *hanging) Brought(ctx context.Context, w boot.Wanted) ([]boot.Found, error) {
	if err := h.here(ctx, "brought"); err != nil {
		return nil, err
	}
	return h.disks.Brought(ctx, w)
}

func (h *hanging) Unused(ctx context.Context, v boot.Volume) error {
	if err := h.here(ctx, "unused"); err != nil {
		return err
	}
	return h.disks.Unused(ctx, v)
}

func (h *hanging) Look(ctx context.Context, mine []boot.Volume) (*boot.Mounted, error) {
	if err := h.here(ctx, "look"); err != nil {
		return nil, err
	}
	mounted, err := h.mounts.Look(ctx, mine)
	if mounted != nil {
		mounted.Tree = hangingTree{h, mounted.Tree}
	}
	return mounted, err
}

func (h *hanging) Prepare(ctx context.Context, v boot.Volume, d boot.Disk) (boot.Prepared, error) {
	if err := h.here(ctx, "prepare"); err != nil {
		return nil, err
	}
	p, err := h.mounts.Prepare(ctx, v, d)
	return hangingPrepared{hangingTree{h, p}, p}, err
}

func (h *hanging) Unmount(ctx context.Context) error {
	if err := h.here(ctx, "unmount"); err != nil {
		return err
	}
	return h.mounts.Unmount(ctx)
}

func (h *hanging) Visible(ctx context.Context, v boot.Volume, d boot.Disk) error {
	if err := h.here(ctx, "visible"); err != nil {
		return err
	}
	return h.mounts.Visible(ctx, v, d)
}

func (h *hanging) Open(ctx context.Context, f boot.Facts) error {
	if err := h.here(ctx, "open"); err != nil {
		return err
	}
	return h.gate.Open(ctx, f)
}

type hangingTree struct {
	h    *hanging
	tree boot.Tree
}

func (t hangingTree) Check(ctx context.Context, want boot.Wanted) error {
	if err := t.h.here(ctx, "check tree"); err != nil {
		return err
	}
	return t.tree.Check(ctx, want)
}

func (t hangingTree) InReach(ctx context.Context, want boot.Wanted) error {
	if err := t.h.here(ctx, "in reach"); err != nil {
		return err
	}
	return t.tree.(boot.Served).InReach(ctx, want)
}

func (t hangingTree) Holding(ctx context.Context) (int64, string, bool) {
	if t.h.here(ctx, "holding") != nil {
		return 0, "", false
	}
	return t.tree.Holding(ctx)
}

type hangingPrepared struct {
	hangingTree
	prepared boot.Prepared
}

func (p hangingPrepared) CatchUp(ctx context.Context, want boot.Wanted) error {
	if err := p.h.here(ctx, "catch up"); err != nil {
		return err
	}
	return p.prepared.CatchUp(ctx, want)
}

func (p hangingPrepared) Place(ctx context.Context) error {
	if err := p.h.here(ctx, "place"); err != nil {
		return err
	}
	return p.prepared.Place(ctx)
}

func (p hangingPrepared) Close(ctx context.Context) error {
	if err := p.h.here(ctx, "close"); err != nil {
		return err
	}
	return p.prepared.Close(ctx)
}

func (h *hanging) boot(t *testing.T) (took time.Duration, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
		defer cancel()
		started := time.Now()
		_, err = boot.Run(ctx, boot.Parts{Instance: h, Pointers: h, Volumes: h, Disks: h, Mounts: h, Gate: h}, h, slog.New(slog.DiscardHandler))
		took = time.Since(started)
	})
	return took, err
}

// TestHangMatrix lets each call of a boot hang, in turn: every boot ends within its deadline, ready
// or with the line of a stage, and nothing that is served is taken away for it.
func TestHangMatrix(t *testing.T) {
	points := 0
	for name, begin := range map[string]func() *world{
		"a first boot": func() *world { return newWorld(7) },
		"a second up": func() *world {
			w := newWorld(7)
			w.have(boot.Volume{ID: "vol-1", SnapshotID: "snap-7", Attached: true}, 7)
			w.mounted = "vol-1"
			return w
		},
		"an older release is mounted": func() *world {
			w := newWorld(7)
			w.have(boot.Volume{ID: "vol-1", SnapshotID: "snap-6", Attached: true}, 6)
			w.mounted = "vol-1"
			return w
		},
		"the volume of an earlier boot holds another release": func() *world {
			w := newWorld(7)
			w.have(boot.Volume{ID: "vol-1", SnapshotID: "snap-6", Attached: true}, 6)
			return w
		},
		"the volume of an earlier boot catches up": func() *world {
			w := newWorld(7)
			w.packs = true
			w.have(boot.Volume{ID: "vol-1", SnapshotID: "snap-6", Attached: true}, 6)
			return w
		},
		"the pointer moves at the re-read": func() *world {
			w := newWorld(6)
			w.packs = true
			report := w.volumes.report
			w.volumes.report = func(v boot.Volume, r boot.Report) error {
				w.pointer = 7
				return report(v, r)
			}
			return w
		},
		"a pack is gone": func() *world {
			w := newWorld(7)
			w.packs = true
			w.have(boot.Volume{ID: "vol-1", SnapshotID: "snap-6", Attached: true}, 6)
			tries := 0
			w.catchUp = func(ctx context.Context, id string, want boot.Wanted) error {
				if tries++; tries == 1 {
					return boot.ErrGone
				}
				return w.byPacks(ctx, id, want)
			}
			return w
		},
		"the gate fails": func() *world {
			w := newWorld(7)
			w.gate.open = func(boot.Facts) error { return errors.New("nobody listens") }
			return w
		},
	} {
		recorded := &hanging{world: begin()}
		_, _ = recorded.boot(t)
		for i, call := range recorded.calls {
			points++
			h := &hanging{world: begin(), at: i + 1}
			before := h.mounted
			took, err := h.boot(t)
			if took > 4*time.Minute {
				t.Errorf("%s, %s hangs: it took %v", name, call, took)
			}
			var failed *boot.Error
			if text := fmt.Sprint(err); err != nil && (!errors.As(err, &failed) || !strings.HasPrefix(text, failed.Stage+": ") || strings.Count(text, "Try: ") != 1) {
				t.Errorf("%s, %s hangs: %v", name, call, err)
			}
			ready := slices.ContainsFunc(h.effects, func(e string) bool { return strings.HasPrefix(e, "ready") })
			if ready != (err == nil) {
				t.Errorf("%s, %s hangs: ready said: %t, and %v", name, call, ready, err)
			}
			if before != "" && call == "check tree" && h.mounted != before && h.holds[before] == 7 {
				t.Errorf("%s, %s hangs: what was served is gone: %v", name, call, h.effects)
			}
			if err == nil && h.holds[h.mounted] != 7 {
				t.Errorf("%s, %s hangs: ready, and %q is mounted", name, call, h.mounted)
			}
		}
	}
	fmt.Printf("hang matrix: %d points of the boot's parts\n", points)
}
