package publish_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/catchup"
	"ebs-release/internal/exit"
	"ebs-release/internal/fleet"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/push"
	"ebs-release/internal/release"
)

// world is all that a publish works on, in memory. Every call of a part goes through do: it is
// logged, and hook may make it fail.
type world struct {
	mu        sync.Mutex
	log       []string
	hook      func(call string) error // called without the lock
	locked    bool
	claimed   bool // the lock of the release volume is held
	pointer   pointer.Pointer
	history   []pointer.Entry // the commits of this world
	current   string
	fence     int64
	trees     map[string]string // id -> digest
	snapshots map[string]bool
	asked     map[string]publish.Snapshot // by this world's publishes, as EC2 lists them
	after     publish.AfterSnapshot
	boxes     map[string]*box
	source    string    // digest that Ingest finds
	wanted    gc.Wanted // by Ingest
	noWay     error     // what a catch-up says
	listings  int
	onList    func(n int) // called before the n-th listing, from 1
	events    []publish.Event
	interrupt func()        // a signal
	insist    chan struct{} // closed by another one
}

// box is one machine.
type box struct {
	fleet.Member
	has      map[string]bool // trees
	fence    int64
	dial     error
	dialing  func(context.Context) error
	stage    func(context.Context) error
	leads    func([]pointer.Edge) error // whether packs lead from what it holds; nil: they do
	activate func(context.Context) error
	refuses  error // what activate says
}

const region = "eu-central-1"

// newWorld has generation 1 published as release r1, and members on it.
func newWorld(members ...string) *world {
	w := &world{
		pointer: pointer.Pointer{Schema: 1, Generation: 1, Release: "r1", Digest: "d1", Snapshots: map[string]string{region: "snap-1"}},
		current: "r1", fence: 1, trees: map[string]string{"r1": "d1"}, snapshots: map[string]bool{"snap-1": true}, asked: map[string]publish.Snapshot{},
		boxes: map[string]*box{}, source: "d2",
	}
	for _, id := range members {
		w.launch(id, 1)
	}
	return w
}

// launch adds a machine that is ready on a generation.
func (w *world) launch(id string, generation int64) *box {
	b := &box{has: map[string]bool{}, fence: generation, Member: fleet.Member{
		InstanceID: id, LifecycleState: "InService", Address: "10.0.0." + id, Group: "web", VolumeID: "vol-" + id,
		Release: fmt.Sprintf("r%d", generation), Generation: generation, State: "ready", HostKey: "key-" + id,
	}}
	w.boxes[id] = b
	return b
}

func (w *world) do(call string) error {
	w.mu.Lock()
	w.log = append(w.log, call)
	hook := w.hook
	w.mu.Unlock()
	if hook != nil {
		return hook(call)
	}
	return nil
}

// did returns the calls that begin with one of the prefixes.
func (w *world) did(prefixes ...string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var calls []string
	for _, call := range w.log {
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(call, p) }) {
			calls = append(calls, call)
		}
	}
	return calls
}

func (w *world) publisher() *publish.Publisher {
	return &publish.Publisher{
		Checks: []publish.Check{{Name: "everything", Do: func(context.Context) error { return w.do("check") }}},
		Store:  w, Tree: w, Packs: w, Snapshots: snapshots{w}, Fleet: w, Dialer: w,
		Keys: []string{"key"}, // the pointer has none yet: no packs lead from its snapshot
		Settings: publish.Settings{
			Who: "tester", Message: "why", Region: region, Keep: 3, Parallel: 4, MemberTimeout: time.Minute,
			Snapshot: w.after, SnapshotDeadline: time.Hour, ConvergeDeadline: 10 * time.Minute, Settle: 5 * time.Second,
		},
		Claim: w.claim,
		Talk:  func(e publish.Event) { w.events = append(w.events, e) },
	}
}

// run publishes in a bubble of its own time and returns the outcome and the exit code.
func (w *world) run(t *testing.T) (o publish.Outcome, code int, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w.interrupt, w.insist = cancel, make(chan struct{})
		p := w.publisher()
		p.Insist = w.insist
		o, err = p.Publish(ctx, "source")
		code = exit.Code(err)
	})
	if w.locked {
		t.Error("the lock is still held")
	}
	return o, code, err
}

func (w *world) Lock(_ context.Context, who string) (func() error, error) {
	if err := w.do("lock"); err != nil {
		return nil, err
	}
	w.locked = true
	return func() error { w.locked = false; return nil }, nil
}

func (w *world) Read(context.Context) (pointer.Pointer, error) {
	if err := w.do("read"); err != nil {
		return pointer.Pointer{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pointer, nil
}

func (w *world) Document(context.Context) ([]byte, error) { return []byte("signed"), nil }

func (w *world) CompareAndSwap(_ context.Context, from, to pointer.Pointer) error {
	err := w.do("commit")
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && !errors.Is(err, errLost) {
		return err
	}
	if w.pointer.Generation != from.Generation || w.pointer.Revision != from.Revision {
		return fmt.Errorf("%w: generation %d", pointer.ErrConflict, w.pointer.Generation)
	}
	if to.Generation > from.Generation {
		w.history = append(w.history, pointer.Entry{Committed: true, Generation: to.Generation, Release: to.Release, Digest: to.Digest})
	}
	w.pointer = to
	w.pointer.Revision++
	return err
}

// errLost: the effect came, the answer did not.
var errLost = errors.New("the answer was lost")

func (w *world) Current() (string, error)   { return w.current, nil }
func (w *world) Generation() (int64, error) { return w.fence, nil }
func (w *world) ManifestDigest(id string) (string, error) {
	if w.trees[id] == "" {
		return "", fmt.Errorf("release %s is not on the volume", id)
	}
	return w.trees[id], nil
}

func (w *world) Ingest(_ context.Context, source string, _ time.Time, wanted gc.Wanted) (release.Ingested, error) {
	w.wanted = wanted
	if err := w.do("ingest"); err != nil {
		return release.Ingested{}, err
	}
	id := "r" + strings.TrimPrefix(w.source, "d")
	w.trees[id] = w.source
	return release.Ingested{ID: id, Digest: w.source, Files: 3, Bytes: 300, Previous: w.current}, nil
}

// Activate is the one of Tree.
func (w *world) Activate(_ context.Context, id, _ string, generation int64) error {
	if err := w.do(fmt.Sprintf("flip %s at %d", id, generation)); err != nil {
		return err
	}
	if generation < w.fence {
		return push.ErrFenced
	}
	w.current, w.fence = id, generation
	return nil
}

func (w *world) CheckActive(id string, generation int64) error {
	if w.current != id || w.fence != generation {
		return fmt.Errorf("%s at %d is active, want %s at %d", w.current, w.fence, id, generation)
	}
	return nil
}

// LockPublish is the one of Tree: as the real one, whoever comes second gets it at once.
func (w *world) LockPublish() (func() error, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.claimed {
		return nil, exit.With(exit.Conflict, release.ErrPublishing)
	}
	w.claimed = true
	return func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.claimed = false
		return nil
	}, nil
}

// claim is publish.Claim.
func (w *world) claim(context.Context) (string, func() error, error) {
	unlock, err := w.LockPublish()
	return "", unlock, err
}

func (w *world) Untouched(_ context.Context, id string) error { return w.do("look at " + id) }

func (w *world) Prune(_ context.Context, wanted gc.Wanted) ([]string, error) {
	needed := append(slices.Sorted(maps.Keys(wanted.Held)), wanted.Committed...)
	slices.Sort(needed)
	return nil, w.do(strings.TrimSpace("prune " + strings.Join(slices.Compact(needed), " ")))
}

func (w *world) History(context.Context) ([]pointer.Entry, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pointer.Generation == 0 {
		return nil, nil
	}
	entries := slices.Clone(w.history)
	if !slices.ContainsFunc(entries, func(e pointer.Entry) bool { return e.Generation == w.pointer.Generation }) {
		entries = append(entries, pointer.Entry{Committed: true, Generation: w.pointer.Generation, Release: w.pointer.Release, Digest: w.pointer.Digest})
	}
	return entries, nil
}

// Asked is of publish.Store.
func (w *world) Asked(_ context.Context, generation int64, region, id string) error {
	if err := w.do("asked " + id); err != nil {
		return err
	}
	entries, _ := w.History(context.Background())
	for i := range entries {
		if entries[i].Generation == generation {
			entries[i].Asked = map[string]string{region: id}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.history = entries
	return nil
}

// CatchUp is the one of Tree.
func (w *world) CatchUp(_ context.Context, to pointer.Pointer, _ gc.Wanted) (catchup.Way, error) {
	if err := errors.Join(w.do("catch up to "+to.Release), w.noWay); err != nil {
		return catchup.Way{}, err
	}
	w.trees[to.Release] = to.Digest
	return catchup.Way{From: w.current, Packs: 1, Bytes: 100}, nil
}

type snapshots struct{ *world }

func (s snapshots) Create(_ context.Context, r publish.SnapshotRequest) (string, time.Duration, error) {
	if err := errors.Join(s.do("snapshot"), r.Frozen()); err != nil {
		return "", 0, err
	}
	id := fmt.Sprintf("snap-%d", r.Holds.Generation)
	s.mu.Lock()
	defer s.mu.Unlock()
	if named := s.pointer.Generation >= r.Holds.Generation; named != r.Committed {
		return "", 0, fmt.Errorf("a snapshot of generation %d, of which it is said that it is committed: %t", r.Holds.Generation, r.Committed)
	}
	if s.snapshots[id] {
		id += "b"
	}
	s.snapshots[id] = true
	s.asked[id] = publish.Snapshot{ID: id, Holds: r.Holds, Pending: true}
	return id, 300 * time.Millisecond, nil
}

func (s snapshots) WaitCompleted(ctx context.Context, id string, progress func(string)) error {
	progress("38%")
	select {
	case <-time.After(20 * time.Second):
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.do("completed")
}

// List is without an entry in the log: it comes at any time beside others.
func (s snapshots) List(context.Context) ([]publish.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.asked), func(a, b publish.Snapshot) int { return strings.Compare(a.ID, b.ID) }), nil
}

// completes has EBS complete a snapshot.
func (w *world) completes(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.asked[id]
	s.Completed, s.Pending = true, false
	w.asked[id] = s
}

func (s snapshots) Delete(_ context.Context, id string) error {
	if err := s.do("delete " + id); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.snapshots, id)
	delete(s.asked, id)
	return nil
}

func (w *world) List(context.Context) ([]fleet.Member, error) {
	w.mu.Lock()
	w.listings++
	n := w.listings
	w.mu.Unlock()
	if w.onList != nil {
		w.onList(n)
	}
	if err := w.do("list"); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var members []fleet.Member
	for _, b := range w.boxes {
		members = append(members, b.Member)
	}
	return members, nil
}

func (w *world) Report(_ context.Context, volumeIDs []string, generation int64, id, state string) error {
	if err := w.do("report " + strings.Join(volumeIDs, ",")); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.boxes {
		if slices.Contains(volumeIDs, b.VolumeID) {
			b.Generation, b.Release = generation, id
			if state != "" {
				b.State = state
			}
		}
	}
	return nil
}

func (w *world) Dial(ctx context.Context, m fleet.Member) (publish.Session, error) {
	if err := w.do("dial " + m.InstanceID); err != nil {
		return nil, err
	}
	w.mu.Lock()
	b := w.boxes[m.InstanceID]
	w.mu.Unlock()
	if b != nil && b.dialing != nil {
		if err := b.dialing(ctx); err != nil {
			return nil, err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if b == nil {
		return nil, errors.New("no route to host")
	}
	if b.dial != nil {
		return nil, b.dial
	}
	return session{w, b}, nil
}

type session struct {
	w *world
	b *box
}

func (s session) Stage(ctx context.Context, to push.Desired) (push.Fetched, error) {
	if s.w.trees[to.Release] != to.Digest {
		return push.Fetched{}, fmt.Errorf("stage %s with digest %q", to.Release, to.Digest)
	}
	if err := s.w.do("stage " + s.b.InstanceID); err != nil {
		return push.Fetched{}, err
	}
	if s.b.stage != nil {
		if err := s.b.stage(ctx); err != nil {
			return push.Fetched{}, err
		}
	}
	if s.b.leads != nil {
		if err := s.b.leads(to.Edges); err != nil {
			return push.Fetched{}, err
		}
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.b.has[to.Release] = true
	return push.Fetched{Packs: 1, Bytes: 20}, nil
}

func (s session) Activate(ctx context.Context, to push.Desired) error {
	if err := s.w.do("activate " + s.b.InstanceID); err != nil {
		return err
	}
	if s.b.activate != nil {
		if err := s.b.activate(ctx); err != nil {
			return err
		}
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	switch {
	case s.b.refuses != nil:
		return s.b.refuses
	case to.Generation < s.b.fence:
		return push.ErrFenced
	case !s.b.has[to.Release]:
		return errors.New("the tree is not there")
	}
	s.b.fence = to.Generation
	return nil
}

func (s session) Close() error { return nil }
