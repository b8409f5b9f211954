package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/catchup"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/store"
	"ebs-release/internal/test/scratch"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
)

// left is what a lost release server left: its store, and a snapshot of its first release. The
// second one is live, and packs lead there.
type left struct {
	*account // of the new server; the snapshot is its disk
	place    string
	id       string // of the store
	secret   pointer.SecretKey
	made     [2]release.Ingested
	pointer  pointer.Pointer
}

func lost(t *testing.T) *left {
	t.Helper()
	ctx := t.Context()
	s := newAccount(t, 32<<20)
	i := s.server(Wish{})
	i.PointerStore = t.TempDir()
	_, err := i.Init(ctx)
	must(t, err)
	v, err := release.Open(i.MountPoint)
	must(t, err)
	source := t.TempDir()
	l := &left{place: i.PointerStore}
	for n := range l.made {
		must(t, os.WriteFile(filepath.Join(source, "version"), fmt.Appendf(nil, "%d", n+1), 0o644))
		l.made[n], err = v.Ingest(ctx, source, time.Now(), gc.Wanted{Keep: 3})
		must(t, err)
	}
	packs, err := store.NewDirectory(l.place)
	must(t, err)
	e, err := catchup.Make(ctx, v, packs, l.made[0].ID, l.made[1].ID, true)
	must(t, err)
	must(t, v.Activate(ctx, l.made[0].ID, l.made[0].Digest, 1))
	must(t, v.Remove(ctx, l.made[1].ID))
	l.id, err = v.StoreID()
	must(t, err)
	held, err := readKeys(i.SigningKey)
	must(t, err)
	l.secret = held[0].SecretKey
	must(t, v.Close())
	s.unmount(i)
	l.account = newAccount(t, 1<<20)
	l.loop = s.loop
	l.snapshots = []types.Snapshot{l.snapshot("snap-00000000000000001", 1, l.made[0].ID, l.id)}
	l.pointer = pointer.Pointer{
		Generation: 2, Release: l.made[1].ID, Digest: l.made[1].Digest, Created: time.Now(), Store: l.id, Revision: 2,
		Snapshots: map[string]string{"eu-central-1": "snap-00000000000000001"}, Edges: []pointer.Edge{e},
		SnapshotOf: &pointer.Held{Generation: 1, Release: l.made[0].ID, Digest: l.made[0].Digest},
	}
	l.says(t, l.pointer, l.secret)
	return l
}

func (l *left) snapshot(id string, generation int, release, store string) types.Snapshot {
	tag := func(key, value string) types.Tag {
		return types.Tag{Key: aws.String("ebs-release:" + key), Value: &value}
	}
	return types.Snapshot{SnapshotId: &id, State: types.SnapshotStateCompleted, StartTime: aws.Time(time.Now()),
		Tags: []types.Tag{tag("role", "release"), tag("generation", fmt.Sprint(generation)), tag("release", release), tag("store", store)}}
}

func (l *left) says(t *testing.T, p pointer.Pointer, by ...pointer.SecretKey) {
	t.Helper()
	document, err := p.Sign(by...)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(l.place, "release.json"), document, 0o644))
}

func (l *left) joins(wish Wish) *Server {
	i := l.server(wish)
	i.PointerStore = l.place
	return i
}

// TestJoin: from nothing but the store and a snapshot to a release server that is where the pointer
// is, and lacks only its key.
func TestJoin(t *testing.T) {
	l := lost(t)
	i := l.joins(Wish{Join: true})
	report, err := i.Init(t.Context())
	must(t, err)
	t.Cleanup(func() { l.unmount(i) })
	did := strings.Join(report.Did, "\n")
	for _, want := range []string{"from snap-00000000000000001 (generation 1)", "caught up from release " + l.made[0].ID + " to " + l.made[1].ID, "generation 2 of store " + l.id, "believes pointers that key " + l.secret.Public().ID()} {
		if !strings.Contains(did, want) {
			t.Errorf("it did %q, want %q", did, want)
		}
	}
	if !strings.Contains(report.Needs, l.secret.Public().ID()) || !strings.Contains(report.Needs, i.SigningKey) || !strings.Contains(report.Needs, "cannot publish") {
		t.Errorf("it needs %q", report.Needs)
	}
	v := opened(t, i.MountPoint)
	must(t, v.Check(l.made[1].ID, l.made[1].Digest, 2))
	must(t, v.CheckActive(l.made[1].ID, 2))
	must(t, os.MkdirAll(filepath.Dir(i.SigningKey), 0o755))
	must(t, os.WriteFile(i.SigningKey, []byte(l.secret.Text()), 0o600))
	again := l.joins(Wish{Join: true})
	if report, err := again.Init(t.Context()); err != nil || len(report.Did) != 0 || report.Needs != "" {
		t.Errorf("once more, with its key: %+v, %v", report, err)
	}
	if len(l.volumes) != 1 {
		t.Errorf("%d volumes", len(l.volumes))
	}
}

// TestJoinGoesAlongWithARotation: a server without the secret key believes the new one once a
// pointer that the old one signed, too, has named it, and only then.
func TestJoinGoesAlongWithARotation(t *testing.T) {
	l := lost(t)
	i := l.joins(Wish{Join: true})
	_, err := i.Init(t.Context())
	must(t, err)
	t.Cleanup(func() { l.unmount(i) })
	newer, err := pointer.NewKey()
	must(t, err)
	old, next := l.secret.Public(), newer.Public()
	keys := Keys{i.SigningKey, opened(t, i.MountPoint)}
	for n, tc := range []struct {
		names []pointer.PublicKey
		by    []pointer.SecretKey
		want  []pointer.PublicKey // that it believes then
		fails bool
	}{
		{[]pointer.PublicKey{next}, []pointer.SecretKey{newer}, []pointer.PublicKey{old}, true},
		{[]pointer.PublicKey{next, old}, []pointer.SecretKey{newer, l.secret}, []pointer.PublicKey{next, old}, false},
		{[]pointer.PublicKey{next}, []pointer.SecretKey{newer}, []pointer.PublicKey{next}, false},
		{[]pointer.PublicKey{old}, []pointer.SecretKey{l.secret}, []pointer.PublicKey{next}, true},
	} {
		l.pointer.Keys, l.pointer.Revision = texts(tc.names), int64(n+3)
		l.says(t, l.pointer, tc.by...)
		if _, err := l.joins(Wish{Join: true}).Init(t.Context()); (err != nil) != tc.fails {
			t.Errorf("%d: %v", n, err)
		}
		known, err := readPublicKeys(keys.publicPath())
		must(t, err)
		lines, err := keys.On.Keys()
		must(t, err)
		if !slices.Equal(known, tc.want) || !slices.Equal(lines, texts(tc.want)) {
			t.Errorf("%d: it believes %s, its volume %v", n, IDs(known), lines)
		}
	}
}

// TestJoinAgain: a publish that failed here has left the fence above the pointer.
func TestJoinAgain(t *testing.T) {
	l := lost(t)
	i := l.joins(Wish{Join: true})
	_, err := i.Init(t.Context())
	must(t, err)
	t.Cleanup(func() { l.unmount(i) })
	v := opened(t, i.MountPoint)
	for _, at := range []struct {
		was  release.Ingested // current, at generation
		n    int64
		want int64
		did  int
	}{
		{l.made[1], 4, 4, 0}, // it was made current again
		{l.made[0], 5, 6, 1}, // the publish was killed before that
	} {
		must(t, v.Activate(t.Context(), at.was.ID, at.was.Digest, at.n))
		report, err := l.joins(Wish{Join: true}).Init(t.Context())
		if err != nil || len(report.Did) != at.did {
			t.Errorf("%+v, %v", report, err)
		}
		if err := v.CheckActive(l.made[1].ID, at.want); err != nil {
			t.Error(err)
		}
	}
	unlock, err := v.LockPublish()
	must(t, err)
	if _, err := l.joins(Wish{Join: true}).Init(t.Context()); !errors.Is(err, release.ErrPublishing) {
		t.Errorf("while a publish runs: %v", err)
	}
	must(t, unlock())
}

// TestBlankWhereNoSnapshotLeads: then a new volume is all that can be had.
func TestBlankWhereNoSnapshotLeads(t *testing.T) {
	l := lost(t)
	l.snapshots = nil
	l.loop = scratch.Disk(t, 32<<20)
	i := l.joins(Wish{})
	must(t, os.MkdirAll(filepath.Dir(i.SigningKey), 0o755))
	must(t, os.WriteFile(i.SigningKey, []byte(l.secret.Text()), 0o600))
	_, err := i.Init(t.Context())
	l.unmount(i)
	must(t, err)
}

// TestJoinInPlaceOfALostStore: the volume brings its store along.
func TestJoinInPlaceOfALostStore(t *testing.T) {
	l := lost(t)
	l.place = t.TempDir()
	i := l.joins(Wish{Join: true, Store: l.id})
	report, err := i.Init(t.Context())
	must(t, err)
	defer l.unmount(i)
	if own := read(t, filepath.Join(l.place, ".store")); own != l.id+"\n" || !strings.Contains(report.Needs, "publish the release that the members report") {
		t.Errorf("the store is %q, %+v", own, report)
	}
}

func TestJoinRefuses(t *testing.T) {
	const other = "2222222222222222"
	for name, tc := range map[string]struct {
		wish   Wish
		change func(t *testing.T, l *left)
		says   []string
		makes  int // volumes
	}{
		"an old copy of the pointer": {Wish{Join: true}, func(_ *testing.T, l *left) {
			l.snapshots = append(l.snapshots, l.snapshot("snap-00000000000000003", 3, l.made[1].ID, l.id))
		}, []string{"at generation 2", "snap-00000000000000003", "put the newer release.json back", "delete-snapshot"}, 0},
		"no snapshot of this store": {Wish{Join: true}, func(_ *testing.T, l *left) {
			l.snapshots = []types.Snapshot{l.snapshot("snap-00000000000000003", 3, l.made[1].ID, other)}
		}, []string{"no completed snapshot of store", "of store " + other + " generation 3"}, 0},
		"none that is completed": {Wish{Join: true}, func(_ *testing.T, l *left) {
			l.snapshots[0].State = types.SnapshotStatePending
		}, []string{"no completed snapshot", "There are no release snapshots here"}, 0},
		"no packs lead on": {Wish{Join: true}, func(t *testing.T, l *left) {
			l.pointer.Edges = nil
			l.says(t, l.pointer, l.secret)
		}, []string{"no packs", "blank volume"}, 0},
		"nobody knows which store": {Wish{Join: true}, func(t *testing.T, l *left) {
			l.place = t.TempDir()
		}, []string{"is empty", "init --join --store ID", "generation 1"}, 0},
		"no store": {Wish{Join: true}, func(_ *testing.T, l *left) {
			l.place += "/none"
		}, []string{"there is no pointer store", "copy the store's there"}, 0},
		"of another store than is meant": {Wish{Join: true, Store: other}, func(*testing.T, *left) {}, []string{"--store " + other}, 0},
		"a pointer that somebody else signed": {Wish{Join: true}, func(t *testing.T, l *left) {
			key, err := pointer.NewKey()
			must(t, err)
			l.says(t, l.pointer, key)
		}, []string{"does not believe the pointer", "not signed by a trusted key"}, 1},
		"a pack that is gone": {Wish{Join: true}, func(t *testing.T, l *left) {
			must(t, os.Remove(filepath.Join(l.place, l.pointer.Edges[0].Pack)))
		}, []string{"generation 2", "a pack that the pointer names is gone"}, 1},
		"a blank volume, where EC2 does not say what there is": {Wish{}, func(_ *testing.T, l *left) {
			l.refused = &smithy.GenericAPIError{Code: "UnauthorizedOperation"}
		}, []string{"UnauthorizedOperation"}, 0},
		"a blank volume, where the pointer is an old copy": {Wish{}, func(_ *testing.T, l *left) {
			l.snapshots = append(l.snapshots, l.snapshot("snap-00000000000000003", 3, l.made[1].ID, l.id))
		}, []string{"put the newer release.json back"}, 0},
		"a blank volume, where there is a snapshot": {Wish{}, func(*testing.T, *left) {}, []string{"begin with nothing", "ebs-release init --join"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			l := lost(t)
			tc.change(t, l)
			i := l.joins(tc.wish)
			_, err := i.Init(t.Context())
			if err == nil {
				t.Fatal("it was done")
			}
			for _, want := range tc.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("it says %v, want %q", err, want)
				}
			}
			if len(l.volumes) != tc.makes {
				t.Errorf("%d volumes, want %d", len(l.volumes), tc.makes)
			}
			if tc.makes == 0 {
				return
			}
			v, err := release.Open(i.MountPoint)
			must(t, err)
			if current, err := v.Current(); err != nil || current != l.made[0].ID {
				t.Errorf("the volume is at %s, %v", current, err)
			}
			must(t, v.Close())
			l.unmount(i)
		})
	}
}
