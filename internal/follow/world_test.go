package follow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/catchup"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
	"ebs-release/internal/store"
	"ebs-release/internal/test/blank"
	"ebs-release/internal/trouble"
)

const (
	interval = 10 * time.Second
	ourStore = "0123456789abcdef"
)

// world is a release server with its store, and a member that serves generation 1.
type world struct {
	t        *testing.T
	ctx      context.Context // of what follows
	server   *release.Volume
	member   string // where its volume is
	secret   pointer.SecretKey
	releases []release.Ingested
	edges    []pointer.Edge

	mu       sync.Mutex
	packs    *store.Directory
	document []byte
	version  int
	away     error // of the store
	looks    []time.Time
	onLook   func() // before each answer
	broken   error  // of packs
	booting  error
	me       pointer.Instance
	nobody   error // of who it is
	opened   int
	program  func(context.Context) error
	ran      int
	stage    func(pointer.Pointer) error // stage.d; nil: no programs
	drain    func(pointer.Pointer) error // drain.d; nil: no programs
	stages   int
	drains   int
	reportIt error
	reports  []status.Reported
	complain []complaint
	told     status.Follow
	log      journal
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newWorld(t *testing.T, releases int) *world {
	t.Helper()
	member := blank.Volume(t)
	w := &world{t: t, server: blank.Volume(t), member: member.Root()}
	var err error
	w.packs, err = store.NewDirectory(t.TempDir())
	must(t, err)
	w.secret, err = pointer.NewKey()
	must(t, err)
	for _, v := range []*release.Volume{w.server, member} {
		must(t, v.SetKeys(t.Context(), []string{w.secret.Public().String()}))
		must(t, v.SetStore(t.Context(), ourStore))
	}
	for n := range releases {
		w.make(n + 1)
	}
	first := w.releases[0]
	e, err := catchup.Make(t.Context(), w.server, w.packs, "", first.ID, false)
	must(t, err)
	to := catchup.Volume{Volume: member, Served: true, Packs: w.Store}
	_, err = to.To(t.Context(), pointer.Pointer{Generation: 1, Release: first.ID, Digest: first.Digest, Edges: []pointer.Edge{e}})
	must(t, err)
	must(t, member.Activate(t.Context(), first.ID, first.Digest, 1))
	must(t, member.MarkDone(t.Context(), first.ID, 1))
	w.say(w.names(1, 1))
	return w
}

// make takes in another release, with a pack from the one before.
func (w *world) make(n int) {
	w.t.Helper()
	dir := w.t.TempDir()
	must(w.t, os.WriteFile(filepath.Join(dir, "same"), []byte("same"), 0o644))
	must(w.t, os.WriteFile(filepath.Join(dir, "number"), fmt.Append(nil, n), 0o644))
	made, err := w.server.Ingest(w.t.Context(), dir, time.Now(), gc.Wanted{Keep: 50})
	must(w.t, err)
	must(w.t, w.server.Activate(w.t.Context(), made.ID, made.Digest, int64(n)))
	if n > 1 {
		e, err := catchup.Make(w.t.Context(), w.server, w.packs, w.releases[n-2].ID, made.ID, false)
		must(w.t, err)
		w.edges = append(w.edges, e)
	}
	w.releases = append(w.releases, made)
}

// names is a pointer to a release, from 1.
func (w *world) names(generation int64, n int) pointer.Pointer {
	of := w.releases[n-1]
	return pointer.Pointer{
		Generation: generation, Release: of.ID, Digest: of.Digest, Store: ourStore, Created: time.Now(),
		Snapshots: map[string]string{"eu-west-1": "snap-0123456789abcdef0"}, Edges: w.edges,
	}
}

func (w *world) signed(p pointer.Pointer, by pointer.SecretKey) []byte {
	w.t.Helper()
	document, err := p.Sign(by)
	must(w.t, err)
	return document
}

func (w *world) say(p pointer.Pointer) { w.write(w.signed(p, w.secret)) }

func (w *world) write(document []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.document = document
	w.version++
}

func (w *world) Look(_ context.Context, unless store.Version) (pointer.Fetched, store.Version, error) {
	w.mu.Lock()
	onLook := w.onLook
	w.looks = append(w.looks, time.Now())
	w.mu.Unlock()
	if onLook != nil {
		onLook()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	version := store.Version(fmt.Sprint(w.version))
	switch {
	case w.away != nil:
		return pointer.Fetched{}, "", w.away
	case version == unless:
		return pointer.Fetched{}, "", store.ErrUnmodified
	}
	p, err := pointer.Parse(w.document)
	return pointer.Fetched{Pointer: p, Document: w.document}, version, err
}

func (w *world) Place() string { return "http://store/release.json" }

func (w *world) Store(context.Context) (store.Reader, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.packs, w.broken
}

func (w *world) Who(context.Context) (pointer.Instance, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.me, w.nobody
}

func (w *world) Volume(context.Context) (*release.Volume, string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opened++
	if w.booting != nil {
		return nil, "", w.booting
	}
	v, err := release.Open(w.member)
	return v, "vol-1", err
}

func (w *world) Stage(_ context.Context, p pointer.Pointer) error {
	w.mu.Lock()
	w.stages++
	stage := w.stage
	w.mu.Unlock()
	if stage == nil {
		return nil
	}
	return stage(p)
}

// Drain does to the mark what the agent does.
func (w *world) Drain(ctx context.Context, p pointer.Pointer) (bool, error) {
	w.mu.Lock()
	drain := w.drain
	if drain != nil {
		w.drains++
	}
	w.mu.Unlock()
	if drain == nil {
		return false, nil
	}
	v, err := release.Open(w.member)
	if err != nil {
		return true, err
	}
	defer func() { _ = v.Close() }()
	if err := v.MarkDrained(ctx); err != nil {
		return true, err
	}
	return true, drain(p)
}

func (w *world) RunPrograms(ctx context.Context) error {
	w.mu.Lock()
	w.ran++
	program := w.program
	w.mu.Unlock()
	if program != nil {
		if err := program(ctx); err != nil {
			return err
		}
	}
	v, err := release.Open(w.member)
	if err != nil {
		return err
	}
	defer func() { _ = v.Close() }()
	n, id, err := v.Fence()
	if err != nil {
		return err
	}
	return v.MarkDone(ctx, id, n)
}

// Report fails the test when it says what the volume does not.
func (w *world) Report(_ context.Context, r status.Reported) error {
	is := w.holds()
	w.mu.Lock()
	defer w.mu.Unlock()
	if is.generation != r.Generation || is.release != r.Release || is.done != r.Ready {
		w.t.Errorf("it reports %+v, and is %+v", r, is)
	}
	if w.reportIt == nil {
		w.reports = append(w.reports, r)
	}
	return w.reportIt
}

// complaint is what the publisher is told of trouble, and of whom.
type complaint struct {
	of      status.Reported
	trouble trouble.Trouble
}

// Complain fails the test when it is about a report that was not made.
func (w *world) Complain(_ context.Context, r status.Reported, t trouble.Trouble) error {
	v, err := release.Open(w.member)
	if err != nil {
		return err
	}
	defer func() { _ = v.Close() }()
	if err := v.CheckActive(r.Release, r.Generation); err != nil {
		w.t.Errorf("it complains as %+v: %v", r, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.complain = append(w.complain, complaint{r, t})
	return w.reportIt
}

func (w *world) Tell(s status.Follow) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = s
	return nil
}

// holding is what the volume says.
type holding struct {
	generation int64
	release    string
	done       bool
}

func (w *world) holds() (is holding) {
	w.t.Helper()
	v, err := release.Open(w.member)
	must(w.t, err)
	defer func() { _ = v.Close() }()
	is.release, err = v.Current()
	must(w.t, err)
	is.generation, err = v.Generation()
	must(w.t, err)
	is.done, err = v.ProgramsDone()
	must(w.t, err)
	must(w.t, v.Verify(w.t.Context(), is.release))
	return is
}

// on fails unless the volume is on a release, with all programs, and that is what was reported
// last.
func (w *world) on(generation int64, n int) {
	w.t.Helper()
	want := holding{generation, w.releases[n-1].ID, true}
	if is := w.holds(); is != want {
		w.t.Errorf("it is %+v, want %+v; log:\n%s", is, want, w.log.String())
	}
	reported := status.Reported{VolumeID: "vol-1", Generation: generation, Release: want.release, Ready: true}
	if w.told.Reported != reported {
		w.t.Errorf("it has reported %+v", w.told.Reported)
	}
}

func (w *world) follower() *Follower {
	return &Follower{Store: w, Member: w, Keep: 3, Interval: interval, Log: slog.New(slog.NewTextHandler(&w.log, nil))}
}

// follow does something while the member follows, in a time of its own. Run has to end at once.
func (w *world) follow(t *testing.T, f *Follower, do func()) {
	t.Helper()
	w.t = t
	if w.told.Reported.VolumeID == "" { // the boot did
		w.told.Reported = status.Reported{VolumeID: "vol-1", Generation: 1, Release: w.releases[0].ID, Ready: true}
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		w.ctx = ctx
		ended := make(chan struct{})
		before := w.told
		go func() { f.Run(ctx, before); close(ended) }()
		do()
		stop()
		began := time.Now()
		<-ended
		if took := time.Since(began); took > time.Second {
			t.Errorf("it ended after %v", took)
		}
	})
}

// pass lets time pass, and what follows from it happen. What the test has changed until here is
// seen by the follower, which takes the lock before it looks.
func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	w.mu.Unlock() //nolint:staticcheck // see above
	time.Sleep(d)
	synctest.Wait()
}

// journal is a log of several followers.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// lines counts the lines of the log that have something.
func (w *world) lines(with string) int { return strings.Count(w.log.String(), with) }

var errAway = &store.Error{Op: "read", On: "http://store", Err: errors.New("connection refused by 10.0.0.4")}
