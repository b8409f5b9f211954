package disks

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/boot"
	"ebs-release/internal/boot/source"
	"ebs-release/internal/boot/tree"
	"ebs-release/internal/catchup"
	"ebs-release/internal/gc"
	"ebs-release/internal/mount"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/store"
)

// signed is a disk with two releases, of which it has only the first any more, a store with the
// pack from there to the second, and the signed pointer.
type signed struct {
	machine *Machine
	secret  pointer.SecretKey
	pointer pointer.Pointer
	first   string
	same    *mount.Detached // its file system
}

func newSigned(t *testing.T) *signed {
	t.Helper()
	ctx := t.Context()
	s := &signed{machine: nvme(t, "mkfs.ext4", "-q", "-F")}
	d, err := s.machine.Find(ctx, ours)
	must(t, err)
	s.same, err = mount.Prepare(d.Path, "ext4")
	must(t, err)
	t.Cleanup(func() { s.same.Close() })
	v, err := release.Open(s.same.Root())
	must(t, err)
	defer v.Close()
	s.secret, err = pointer.NewKey()
	must(t, err)
	must(t, v.Init(os.Getuid(), os.Getgid()))
	must(t, v.SetKeys(ctx, []string{s.secret.Public().String()}))
	must(t, v.SetStore(ctx, "0123456789abcdef"))
	source := t.TempDir()
	var made [2]release.Ingested
	for i := range made {
		must(t, os.WriteFile(filepath.Join(source, "version"), fmt.Appendf(nil, "%d", i+1), 0o644))
		made[i], err = v.Ingest(ctx, source, time.Now(), gc.Wanted{Keep: 3})
		must(t, err)
	}
	dir := t.TempDir()
	packs, err := store.NewDirectory(dir)
	must(t, err)
	e, err := catchup.Make(ctx, v, packs, made[0].ID, made[1].ID, false)
	must(t, err)
	must(t, v.Activate(ctx, made[0].ID, made[0].Digest, 1))
	must(t, v.Remove(ctx, made[1].ID))
	web := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(web.Close)
	s.machine.Source.Pointer = web.URL + "/release.json"
	s.first = made[0].ID
	s.pointer = pointer.Pointer{
		Generation: 2, Release: made[1].ID, Digest: made[1].Digest, Created: time.Now(), Store: "0123456789abcdef",
		Snapshots: map[string]string{"eu-west-1": "snap-0123456789abcdef0"},
		Edges:     []pointer.Edge{e}, SnapshotOf: &pointer.Held{Generation: 1, Release: made[0].ID, Digest: made[0].Digest},
	}
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wants is what the pointer says, signed.
func (s *signed) wants(t *testing.T, p pointer.Pointer, by pointer.SecretKey) boot.Wanted {
	t.Helper()
	document, err := p.Sign(by)
	must(t, err)
	return boot.Wanted{Store: p.Store, Generation: p.Generation, Release: p.Release, Digest: p.Digest, Document: string(document)}
}

// TestTheChildCatchesUp: in place where nobody else has the disk, else beside what is read.
func TestTheChildCatchesUp(t *testing.T) {
	for name, shared := range map[string]bool{"alone": false, "read elsewhere": true} {
		t.Run(name, func(t *testing.T) {
			s := newSigned(t)
			next, err := pointer.NewKey()
			must(t, err)
			s.pointer.Keys = []string{s.secret.Public().String(), next.Public().String()}
			if !shared {
				must(t, s.same.Close())
			}
			p, _ := toPrepared(t, t.Context(), s.machine)
			want := s.wants(t, s.pointer, s.secret)
			must(t, p.CatchUp(t.Context(), want))
			must(t, p.Check(t.Context(), want))
			if n, id, _ := p.Holding(t.Context()); n != 2 || id != want.Release {
				t.Errorf("it holds %d, %s", n, id)
			}
			must(t, p.CatchUp(t.Context(), s.wants(t, s.pointer, next))) // who may sign from now on
			if shared {
				v := open(t, s.same.Root())
				held, err := v.Releases()
				if err != nil || len(held) != 2 || held[0] != s.first {
					t.Errorf("what somebody reads: %v, %v", held, err)
				}
				must(t, v.Close())
			}
			must(t, p.Close(t.Context()))
		})
	}
}

// TestTheChildKnowsItsSide: the child reads the document by itself, and comes to what this instance
// is given.
func TestTheChildKnowsItsSide(t *testing.T) {
	s := newSigned(t)
	must(t, s.same.Close())
	all := s.pointer
	all.Generation, all.Release, all.Digest, all.SnapshotOf = 1, s.first, s.pointer.SnapshotOf.Digest, nil
	all.Rollout = &pointer.Rollout{
		Held:  pointer.Held{Generation: 2, Release: s.pointer.Release, Digest: s.pointer.Digest},
		Share: map[string]string{"eu-west-1a": "ffffffffffffffff"}, Steps: []pointer.Step{{Percent: 100}},
	}
	p, _ := toPrepared(t, t.Context(), s.machine)
	document, err := all.Sign(s.secret)
	must(t, err)
	whole, err := pointer.Parse(document)
	must(t, err)
	read := source.ReadAs(pointer.Fetched{Pointer: whole, Document: document})
	for _, zone := range []string{"eu-west-1b", "eu-west-1a"} {
		me := boot.Identity{InstanceID: "i-1", Zone: zone}
		own := read.For(me)
		want := boot.Wanted{
			Store: own.Store, Generation: own.Generation, Release: own.Release, Digest: own.Digest, Document: own.Document, Who: me,
		}
		must(t, p.CatchUp(t.Context(), want))
		must(t, p.Check(t.Context(), want))
		n, id, _ := p.Holding(t.Context())
		if given := whole.For(tree.InstanceOf(me)); n != given.Generation || id != given.Release || own.Behind != (n == 2) {
			t.Errorf("in %s it holds %d, %s; behind %v", zone, n, id, own.Behind)
		}
	}
	must(t, p.Close(t.Context()))
}

// TestTheChildRefuses: what is refused changes nothing on the volume.
func TestTheChildRefuses(t *testing.T) {
	s := newSigned(t)
	other, err := pointer.NewKey()
	must(t, err)
	must(t, s.same.Close())
	p, _ := toPrepared(t, t.Context(), s.machine)
	older, foreign, noWay, gone, lost := s.pointer, s.pointer, s.pointer, s.pointer, s.pointer
	older.Generation = 1 // with another release than that which is active
	foreign.Store = "fedcba9876543210"
	noWay.Edges = nil
	gone.Edges = []pointer.Edge{s.pointer.Edges[0]}
	gone.Edges[0].Pack = gone.Edges[0].Pack[:len(gone.Edges[0].Pack)-12] + strings.Repeat("0", 12)
	lost.Edges = []pointer.Edge{s.pointer.Edges[0]}
	lost.Edges[0].SHA256 = strings.Repeat("0", 64)
	for _, tc := range []struct {
		name string
		want boot.Wanted
		end  error // nil: it says nothing of the volume
	}{
		{"another key", s.wants(t, s.pointer, other), boot.ErrUnsigned},
		{"another key, and another store", s.wants(t, foreign, other), boot.ErrUnsigned},
		{"another store", s.wants(t, foreign, s.secret), boot.ErrMismatch},
		{"no way", s.wants(t, noWay, s.secret), boot.ErrMismatch},
		{"gone", s.wants(t, gone, s.secret), boot.ErrGone},
		{"another sha256", s.wants(t, lost, s.secret), boot.ErrStore},
	} {
		err := p.CatchUp(t.Context(), tc.want)
		for _, m := range tree.Kinds() {
			if err == nil || errors.Is(err, m) != (m == tc.end) {
				t.Errorf("%s: %v", tc.name, err)
			}
		}
		if err := p.Check(t.Context(), tc.want); !errors.Is(err, boot.ErrMismatch) && tc.end != boot.ErrUnsigned || tc.end == boot.ErrUnsigned && !errors.Is(err, tc.end) {
			t.Errorf("%s: check says %v", tc.name, err)
		}
		if n, id, _ := p.Holding(t.Context()); n != 1 || id != s.first {
			t.Errorf("%s: it holds %d, %s", tc.name, n, id)
		}
	}
	if err := p.CatchUp(t.Context(), s.wants(t, older, s.secret)); !errors.Is(err, boot.ErrOlder) {
		t.Errorf("a generation that is active with another release: %v", err)
	}
	trusting := p.(prepared)
	trusting.source.Trusted = []string{foreign.Store + ":" + s.secret.Public().String()}
	if err := trusting.CatchUp(t.Context(), s.wants(t, s.pointer, s.secret)); !errors.Is(err, boot.ErrUnsigned) {
		t.Errorf("a key that is trusted for another store: %v", err)
	}
}

// TestWhatIsServedAsksForItsPacksFirst: by the same rules as a catch-up.
func TestWhatIsServedAsksForItsPacksFirst(t *testing.T) {
	s := newSigned(t)
	other, err := pointer.NewKey()
	must(t, err)
	gone := s.pointer
	gone.Edges = []pointer.Edge{s.pointer.Edges[0]}
	gone.Edges[0].Pack = gone.Edges[0].Pack[:len(gone.Edges[0].Pack)-12] + strings.Repeat("0", 12)
	v := tree.Volume{Volume: open(t, s.same.Root())}
	defer v.Close()
	for name, tc := range map[string]struct {
		want boot.Wanted
		end  error
	}{
		"all there":   {s.wants(t, s.pointer, s.secret), nil},
		"another key": {s.wants(t, s.pointer, other), boot.ErrUnsigned},
		"gone":        {s.wants(t, gone, s.secret), boot.ErrGone},
	} {
		if err := v.InReach(t.Context(), tc.want, s.machine.Source.Packs(slog.New(slog.DiscardHandler))); !errors.Is(err, tc.end) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
