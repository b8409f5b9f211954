package publish_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/push"
)

func TestPublishRunsInTheOrderThatMakesItSafe(t *testing.T) {
	w := newWorld("a", "b")
	o, code, err := w.run(t)
	if err != nil || code != 0 {
		t.Fatalf("code %d, %v", code, err)
	}
	if got, want := o.Sentence(), "generation 2 is current: 2/2 members on it"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	p := w.pointer
	if p.Generation != 2 || p.Release != "r2" || p.Digest != "d2" || p.Snapshots[region] != "snap-2" || p.By != "tester" || p.Message != "why" || p.Created.IsZero() {
		t.Errorf("pointer = %+v", p)
	}
	order := w.did("lock", "check", "ingest", "flip", "snapshot", "stage a", "completed", "commit", "activate a", "report", "prune")
	want := "lock check ingest flip r2 at 2 snapshot stage a completed commit activate a report vol-a,vol-b prune r1 r2"
	if got := strings.Join(order, " "); got != want {
		t.Errorf("did %s\nwant %s", got, want)
	}
	if dials := w.did("dial"); len(dials) != 2 {
		t.Errorf("%v, want one connection per member", dials)
	}
	if w.boxes["a"].fence != 2 || w.boxes["b"].fence != 2 || o.Fetched.Packs != 2 || o.Fetched.Bytes != 40 || o.Frozen != 300 {
		t.Errorf("outcome %+v", o)
	}
}

// TestEachPhaseSaysHowLongItTook: in this world every phase takes less than a millisecond, and 0 is
// a figure, too.
func TestEachPhaseSaysHowLongItTook(t *testing.T) {
	w := newWorld("a")
	o, _, err := w.run(t)
	if err != nil {
		t.Fatal(err)
	}
	ended := 0
	for _, e := range w.events {
		if e.Kind != publish.KindDone {
			continue
		}
		ended++
		if text, err := json.Marshal(e); err != nil || !strings.Contains(string(text), `"milliseconds":`) {
			t.Errorf("%s, %v", text, err)
		}
	}
	if ended == 0 || ended != len(o.Phases) {
		t.Errorf("%d of %d phases said that they are done", ended, len(o.Phases))
	}
}

func TestFirstPublishWithoutMembers(t *testing.T) {
	w := newWorld()
	w.pointer, w.current, w.fence, w.trees = pointer.Pointer{}, "", 0, map[string]string{}
	o, code, err := w.run(t)
	if err != nil || code != 0 || o.Generation != 1 || o.Total != 0 || o.Result != publish.ResultConverged {
		t.Errorf("code %d, %v, %+v", code, err, o)
	}
}

func TestGenerationIsAbovePointerVolumeAndMembers(t *testing.T) {
	for _, tc := range []struct {
		name                   string
		pointer, fence, member int64
		want                   int64
	}{
		{"pointer", 7, 7, 7, 8},
		{"an earlier publish stopped before its commit", 7, 9, 7, 10},
		{"the pointer was restored from an old copy", 3, 3, 7, 8},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld()
			w.launch("a", tc.member)
			w.pointer.Generation, w.fence = tc.pointer, tc.fence
			o, _, err := w.run(t)
			if err != nil || o.Generation != tc.want || w.boxes["a"].fence != tc.want {
				t.Errorf("generation %d on member %d, want %d, %v", o.Generation, w.boxes["a"].fence, tc.want, err)
			}
		})
	}
}

func TestGenerationsDoNotOverflow(t *testing.T) {
	w := newWorld("a")
	w.fence = math.MaxInt64
	_, code, err := w.run(t)
	if code != exit.Unchanged || err == nil || !strings.Contains(err.Error(), "cannot be followed") || w.pointer.Generation != 1 || w.boxes["a"].fence != 1 {
		t.Errorf("%d %v, pointer %+v, member on %d", code, err, w.pointer, w.boxes["a"].fence)
	}
}

// What a pack will start from, for a member or for who boots, does not become the new tree.
func TestIngestLeavesWhatPacksStartFrom(t *testing.T) {
	w := newWorld("a", "b")
	w.boxes["b"].Release = "r0"
	w.pointer.Schema, w.pointer.SnapshotOf = pointer.Signed, &pointer.Held{Generation: 1, Release: "s", Digest: "ds"}
	if _, _, err := w.run(t); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"r0": "b is on it", "r1": "a is on it", "s": "the newest snapshot has it"}
	if !maps.Equal(w.wanted.Held, want) {
		t.Errorf("%v", w.wanted.Held)
	}
}

func TestSameTreeIsPublishedAgain(t *testing.T) {
	w := newWorld("a")
	w.source = "d1"
	o, _, err := w.run(t)
	if err != nil || o.Generation != 2 || o.Release != "r1" {
		t.Errorf("%+v, %v", o, err)
	}
	said := slices.ContainsFunc(w.events, func(e publish.Event) bool {
		return e.Text == "the source equals generation 1, which is published again"
	})
	if !said {
		t.Errorf("events %+v", w.events)
	}
}

// Before the commit every failure ends with exit code 3 and takes back what was done.
func TestFailureBeforeTheCommitChangesNothing(t *testing.T) {
	boom := errors.New("boom")
	for _, tc := range []struct {
		call string
		code int
		want string // in the error
	}{
		{"lock", 3, "lock the pointer store"},
		{"read", 3, "read the pointer"},
		{"check", 3, "check everything"},
		{"list", 3, "list the members"},
		{"ingest", 3, "ingest (P1)"},
		{"flip r2 at 2", 3, "make r2 current"},
		{"snapshot", 3, "pack (P2)"},
		{"completed", 3, "stage (P3)"},
		{"stage", 3, "none of 2 members could take the release"},
		{"dial", 3, "none of 2 members can be reached"},
		{"commit", 3, "commit (P4)"},
	} {
		t.Run(tc.call, func(t *testing.T) {
			w := newWorld("a", "b")
			w.hook = func(call string) error {
				if strings.HasPrefix(call, tc.call) {
					return boom
				}
				return nil
			}
			o, code, err := w.run(t)
			if code != tc.code || !errors.Is(err, boom) || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "nothing was changed") {
				t.Errorf("code %d: %v, want %d with %q", code, err, tc.code, tc.want)
			}
			if strings.Contains(o.Error, "\n") || o.Result != publish.ResultUnchanged {
				t.Errorf("outcome %+v", o)
			}
			unchanged(t, w)
		})
	}
}

func unchanged(t *testing.T, w *world) {
	t.Helper()
	if w.pointer.Generation != 1 || w.current != "r1" || len(w.snapshots) != 1 {
		t.Errorf("pointer at %d, current is %s, snapshots %v", w.pointer.Generation, w.current, w.snapshots)
	}
	if did := w.did("activate"); len(did) != 0 {
		t.Errorf("activated without a commit: %v", did)
	}
}

func TestConflictActivatesNothing(t *testing.T) {
	w := newWorld("a")
	w.hook = func(call string) error {
		if call == "completed" {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.pointer.Generation = 2
		}
		return nil
	}
	o, code, err := w.run(t)
	if code != exit.Conflict || !errors.Is(err, pointer.ErrConflict) || o.Result != publish.ResultConflict {
		t.Errorf("code %d, %v", code, err)
	}
	w.pointer.Generation = 1
	unchanged(t, w)
}

func TestLockHeldIsAConflict(t *testing.T) {
	w := newWorld("a")
	w.hook = func(call string) error {
		if call == "lock" {
			return fmt.Errorf("%w: by someone", pointer.ErrLocked)
		}
		return nil
	}
	if _, code, err := w.run(t); code != exit.Conflict {
		t.Errorf("code %d, %v", code, err)
	}
	if len(w.log) != 1 {
		t.Errorf("did %v", w.log)
	}
}

func TestLostAnswerOfTheCommitIsFoundOut(t *testing.T) {
	w := newWorld("a")
	w.hook = func(call string) error {
		if call == "commit" {
			return errLost
		}
		return nil
	}
	o, code, err := w.run(t)
	if code != 0 || o.Generation != 2 || o.OnIt != 1 || !w.snapshots["snap-2"] {
		t.Errorf("code %d, %v, %+v", code, err, o)
	}
}

func TestUnknownCommitKeepsTheSnapshot(t *testing.T) {
	w := newWorld("a")
	w.hook = func(call string) error {
		if call == "commit" || call == "read" && len(w.did("commit")) > 0 {
			return errLost
		}
		return nil
	}
	_, code, err := w.run(t)
	if code != exit.Failed || !strings.Contains(err.Error(), "not known whether generation 2 is committed") || !w.snapshots["snap-2"] {
		t.Errorf("code %d, %v, snapshots %v", code, err, w.snapshots)
	}
}

func TestWhatCannotBeTakenBackIsNamed(t *testing.T) {
	w := newWorld("a")
	w.hook = func(call string) error {
		if call == "completed" || call == "delete snap-2" {
			return errors.New("boom")
		}
		return nil
	}
	_, code, err := w.run(t)
	if code != exit.Failed || !strings.Contains(err.Error(), "snapshot snap-2") || w.current != "r1" {
		t.Errorf("code %d, %v, current %s", code, err, w.current)
	}
}

// A signal comes during each call in turn: before the commit the publish ends with 130 and nothing
// is visible; after it all members are brought to the generation, or, when it comes twice, it ends
// with 130 and says what is committed.
func TestInterruptAtEveryCall(t *testing.T) {
	whole := newWorld("a", "b")
	if _, _, err := whole.run(t); err != nil {
		t.Fatal(err)
	}
	committed := slices.Index(whole.log, "commit")
	for i := range 2 * len(whole.log) {
		n, twice := i/2, i%2 == 1
		w := newWorld("a", "b")
		calls, at := 0, ""
		w.hook = func(call string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			calls++
			if calls == n+1 {
				at = call
				w.interrupt()
				if twice {
					close(w.insist)
				}
			}
			return nil
		}
		o, code, err := w.run(t)
		switch {
		case code == 0 && o.Generation == 2 && o.OnIt == o.Total && n >= committed:
			if !twice && n < len(whole.log)-3 && !slices.ContainsFunc(w.events, func(e publish.Event) bool { return strings.Contains(e.Text, "a signal came after the commit") }) {
				t.Errorf("a signal during %q: nothing was said", at)
			}
		case !twice && n > committed:
			t.Errorf("one signal during %q (call %d): code %d, %v", at, n, code, err)
		case code != exit.Interrupted:
			t.Errorf("interrupt during %q (call %d): code %d, %v", at, n, code, err)
		case w.pointer.Generation == 1:
			unchanged(t, w)
		case !strings.Contains(err.Error(), "generation 2 is committed"):
			t.Errorf("interrupt during %q: %v", at, err)
		}
	}
}

func TestOneDeadMemberChangesNothingForTheRest(t *testing.T) {
	w := newWorld("a", "b", "c")
	w.boxes["b"].dial = errors.New("connection timed out")
	o, code, err := w.run(t)
	if code != exit.NotConverged || o.OnIt != 2 || o.Total != 3 || !o.Committed || o.Result != publish.ResultNotConverged {
		t.Errorf("code %d, %+v", code, o)
	}
	if !strings.Contains(err.Error(), "2/3 members") || !strings.Contains(err.Error(), "b: connection timed out") {
		t.Errorf("%v", err)
	}
	if o.Members[1].Standing != "failed" || !strings.Contains(o.Members[1].Error, "timed out") {
		t.Errorf("%+v", o.Members[1])
	}
}

func TestSlowMemberHoldsNobodyUp(t *testing.T) {
	w := newWorld("a", "b")
	var activated time.Time
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		w.boxes["b"].stage = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		w.onList = func(n int) {
			if n == 4 { // P5 lists for the second time, while b still hangs
				w.launch("c", 1)
			}
		}
		w.hook = func(call string) error {
			if call == "activate c" {
				activated = time.Now()
			}
			return nil
		}
		p := w.publisher()
		o, err := p.Publish(t.Context(), "source")
		if exit.Code(err) != exit.NotConverged || o.OnIt != 2 || !strings.Contains(err.Error(), "took longer than 1m0s") {
			t.Errorf("%v, %+v", err, o)
		}
		// P3 waits three times for b; c, launched during P5, does not wait for b at all.
		if p3 := start.Add(4 * time.Minute); activated.IsZero() || activated.After(p3) {
			t.Errorf("c was activated %v after the start", activated.Sub(start))
		}
	})
}

func TestNoMoreMembersThanParallelAreWorkedOn(t *testing.T) {
	var ids []string
	for i := range 11 {
		ids = append(ids, fmt.Sprintf("m%02d", i))
	}
	w := newWorld(ids...)
	var mu sync.Mutex
	busy, most := 0, map[string]int{}
	work := func(what string) func(context.Context) error {
		return func(context.Context) error {
			mu.Lock()
			busy++
			most[what] = max(most[what], busy)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			busy--
			mu.Unlock()
			return nil
		}
	}
	for _, b := range w.boxes {
		b.stage, b.activate = work("stage"), work("activate")
	}
	o, err := w.publishWith(t, func(p *publish.Publisher) { p.Settings.Parallel = 3 })
	if err != nil || o.OnIt != 11 || most["stage"] != 3 || most["activate"] != 11 {
		t.Errorf("%v, %d are on it, at most %v at the same time; want 3 staged, and all flips", err, o.OnIt, most)
	}
}

func TestErrorThatPassesIsTriedAgain(t *testing.T) {
	w := newWorld("a")
	tries := 0
	w.boxes["a"].stage = func(context.Context) error {
		if tries++; tries < 3 {
			return errors.New("connection reset")
		}
		return nil
	}
	o, code, err := w.run(t)
	if code != 0 || tries != 3 || o.OnIt != 1 {
		t.Errorf("code %d after %d tries, %v", code, tries, err)
	}
	if dials := w.did("dial"); len(dials) != 3 {
		t.Errorf("%v, want a new connection after each error", dials)
	}
}

func TestMemberLaunchedDuringThePublishIsBroughtOn(t *testing.T) {
	w := newWorld("a")
	w.onList = func(n int) {
		if n == 3 { // the first listing of P5
			w.launch("b", 1) // from the old snapshot
		}
	}
	o, code, err := w.run(t)
	if code != 0 || o.Sentence() != "generation 2 is current: 2/2 members on it; 1 launched during the publish, all on generation 2" || w.boxes["b"].fence != 2 {
		t.Errorf("code %d, %v, %s", code, err, o.Sentence())
	}
}

func TestMemberSeenOnlyByTheSecondListingIsBroughtOn(t *testing.T) {
	w := newWorld()
	w.onList = func(n int) {
		if n == 4 { // P0, P3, P5 clean, P5 again
			w.launch("late", 1)
		}
	}
	o, code, err := w.run(t)
	if code != 0 || w.boxes["late"].fence != 2 || o.Total != 1 {
		t.Errorf("code %d, %v, %+v", code, err, o)
	}
}

func TestListingsAreSettleApart(t *testing.T) {
	w := newWorld("a")
	var at []time.Time
	w.onList = func(int) { at = append(at, time.Now()) }
	if _, code, err := w.run(t); code != 0 {
		t.Fatal(err)
	}
	if last := at[len(at)-1].Sub(at[len(at)-2]); last < 5*time.Second {
		t.Errorf("the last two listings were %v apart", last)
	}
}

func TestBootingMemberIsWaitedFor(t *testing.T) {
	w := newWorld("a")
	b := w.launch("b", 0)
	b.State, b.VolumeID, b.Release = "unknown", "", ""
	w.onList = func(n int) {
		switch n {
		case 5:
			b.State, b.VolumeID = "booting", "vol-b"
			b.Generation = 2
		case 8:
			b.State, b.Release = "ready", "r2"
		}
	}
	o, code, err := w.run(t)
	if code != 0 || o.OnIt != 2 || w.listings < 9 {
		t.Errorf("code %d after %d listings, %v", code, w.listings, err)
	}
	if dials := w.did("dial b"); len(dials) != 0 {
		t.Error("a booting member was connected to")
	}
}

func TestMemberThatNeverBootsIsNamed(t *testing.T) {
	w := newWorld("a")
	w.launch("b", 0).State = "booting"
	_, code, err := w.run(t)
	if code != exit.NotConverged || !strings.Contains(err.Error(), "b: its agent has not reported ready") {
		t.Errorf("code %d, %v", code, err)
	}
}

func TestAgentThatSaysNotReadyIsAskedAgain(t *testing.T) {
	w := newWorld("a")
	w.boxes["a"].refuses = push.ErrNotReady
	w.onList = func(n int) {
		if n == 5 {
			w.boxes["a"].refuses = nil
		}
	}
	if o, code, err := w.run(t); code != 0 || o.OnIt != 1 {
		t.Errorf("code %d, %v", code, err)
	}
}

func TestMemberThatLeftIsGoneNotFailed(t *testing.T) {
	w := newWorld("a", "b", "c")
	w.boxes["b"].stage = func(context.Context) error { return errors.New("no route to host") }
	w.boxes["c"].refuses = errors.New("connection refused")
	w.onList = func(n int) {
		if n == 4 {
			delete(w.boxes, "b")
			w.boxes["c"].LifecycleState = "Terminating:Wait"
		}
	}
	o, code, err := w.run(t)
	if code != 0 || o.Sentence() != "generation 2 is current: 1/1 members on it (2 gone)" {
		t.Errorf("code %d, %v, %s", code, err, o.Sentence())
	}
	if o.Members[1].Standing != "gone" || o.Members[2].Standing != "leaving" {
		t.Errorf("%+v", o.Members)
	}
}

func TestLastMemberGoneDuringTheTransferStopsNothing(t *testing.T) {
	w := newWorld("a")
	w.boxes["a"].stage = func(context.Context) error { return errors.New("no route to host") }
	w.onList = func(n int) {
		if n == 3 {
			delete(w.boxes, "a")
		}
	}
	if o, code, err := w.run(t); code != 0 || o.Generation != 2 {
		t.Errorf("code %d, %v", code, err)
	}
}

func TestReplacedVolumeIsBroughtOnAgain(t *testing.T) {
	w := newWorld("a")
	w.onList = func(n int) {
		if n == 4 { // after its activation the member came back on a volume from the old snapshot
			a := w.boxes["a"]
			a.VolumeID, a.Generation, a.fence, a.has = "vol-new", 1, 1, map[string]bool{}
		}
	}
	o, code, err := w.run(t)
	if code != 0 || w.boxes["a"].fence != 2 || w.boxes["a"].Generation != 2 || o.Members[0].VolumeID != "vol-new" {
		t.Errorf("code %d, %v, %+v", code, err, w.boxes["a"])
	}
}

func TestFencedMemberIsNamed(t *testing.T) {
	w := newWorld("a", "b")
	w.boxes["b"].fence = 9 // its tags say 1
	_, code, err := w.run(t)
	if code != exit.NotConverged || !strings.Contains(err.Error(), "b: "+push.ErrFenced.Error()) {
		t.Errorf("code %d, %v", code, err)
	}
}

func TestAnotherPublishTakesOver(t *testing.T) {
	w := newWorld("a")
	w.boxes["a"].refuses = push.ErrNotReady
	w.onList = func(n int) {
		if n == 5 {
			w.pointer.Generation, w.pointer.By = 3, "someone else"
		}
	}
	_, code, err := w.run(t)
	if code != exit.Conflict || !strings.Contains(err.Error(), "generation 3 was published meanwhile by someone else") {
		t.Errorf("code %d, %v", code, err)
	}
}

func TestTagsAreWrittenInTheEnd(t *testing.T) {
	w := newWorld("a")
	fails := 2
	w.hook = func(call string) error {
		if strings.HasPrefix(call, "report") && fails > 0 {
			fails--
			return errors.New("throttled")
		}
		return nil
	}
	if _, code, err := w.run(t); code != 0 || w.boxes["a"].Generation != 2 {
		t.Errorf("code %d, %v, tags say %d", code, err, w.boxes["a"].Generation)
	}
}

func TestConvergeBringsMembersOnWithoutASnapshot(t *testing.T) {
	w := newWorld("a", "b")
	w.boxes["b"].Generation, w.boxes["b"].fence = 0, 0
	synctest.Test(t, func(t *testing.T) {
		o, err := w.publisher().Converge(t.Context())
		if err != nil || o.OnIt != 2 || o.Generation != 1 || w.boxes["b"].fence != 1 {
			t.Errorf("%v, %+v", err, o)
		}
	})
	if did := w.did("snapshot", "ingest", "commit", "flip", "activate a"); len(did) != 0 {
		t.Errorf("did %v", did)
	}
}

func TestConvergeToNothing(t *testing.T) {
	w := newWorld("a")
	w.pointer = pointer.Pointer{}
	synctest.Test(t, func(t *testing.T) {
		_, err := w.publisher().Converge(t.Context())
		if exit.Code(err) != exit.Unchanged || !strings.Contains(err.Error(), "nothing has been published yet") {
			t.Errorf("%v", err)
		}
	})
}

func TestProgressCountsMembers(t *testing.T) {
	w := newWorld("a", "b")
	if _, code, err := w.run(t); code != 0 {
		t.Fatal(err)
	}
	var staged, done *publish.Progress
	for _, e := range w.events {
		if e.Kind == publish.KindProgress && e.Phase == "P3" {
			staged = e.Progress
		}
		if e.Kind == publish.KindProgress && e.Phase == "P5" {
			done = e.Progress
		}
	}
	if staged == nil || staged.Done != 2 || staged.Snapshot != "100%" {
		t.Errorf("P3: %+v", staged)
	}
	if done == nil || done.Done != 2 || done.Total != 2 {
		t.Errorf("P5: %+v", done)
	}
}

// converge runs a converge and returns its exit code.
func (w *world) converge(t *testing.T) (o publish.Outcome, code int, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o, err = w.publisher().Converge(t.Context())
		code = exit.Code(err)
	})
	return o, code, err
}

// standing is how a status of another process shows a member.
func (w *world) standing(id string) publish.Standing {
	return publish.View(w.boxes[id].Member, w.pointer).Standing
}

// A member whose programs failed may serve the release before: it is not current until they
// succeed, whichever process looks.
func TestAHookThatFailedIsKnownToTheNextProcess(t *testing.T) {
	w := newWorld("a", "b")
	fails := true
	w.boxes["a"].activate = func(context.Context) error {
		if fails {
			w.boxes["a"].fence = w.pointer.Generation
			return &push.HookError{Name: "50-reload", Code: 7, Line: "broken"}
		}
		return nil
	}
	o, code, err := w.run(t)
	if code != exit.NotConverged || !strings.Contains(err.Error(), "50-reload") || o.OnIt != 1 || o.Members[0].Standing != publish.StandsHookFailed {
		t.Fatalf("publish: %d, %v, %+v", code, err, o.Members)
	}
	if n := len(w.did("activate a")); n != 1 {
		t.Errorf("one publish ran the programs %d times", n)
	}
	for range 2 {
		if got := w.standing("a"); got != publish.StandsHookFailed || w.boxes["a"].Generation != 2 {
			t.Errorf("status: %s, generation %d", got, w.boxes["a"].Generation)
		}
		o, code, err = w.converge(t)
		if code != exit.NotConverged || !strings.Contains(err.Error(), "broken") || o.OnIt != 1 || o.Members[0].Hook == "" {
			t.Errorf("converge: %d, %v, %+v", code, err, o.Members)
		}
	}
	fails = false
	if o, code, err = w.converge(t); code != 0 || o.OnIt != 2 || w.standing("a") != publish.StandsCurrent {
		t.Errorf("converge after the cause is gone: %d, %v, %s", code, err, w.standing("a"))
	}
	if n := len(w.did("activate b")); n != 1 {
		t.Errorf("the member that was well was activated %d times", n)
	}
}

// The pointer was restored from an old copy: members of two generations are not all current, and
// converge cannot bring them together.
func TestAheadIsSaidAndNotFought(t *testing.T) {
	w := newWorld("a")
	w.launch("b", 3)
	if a, b := w.standing("a"), w.standing("b"); a != publish.StandsCurrent || b != publish.StandsAhead {
		t.Errorf("status: %s, %s", a, b)
	}
	o, code, err := w.converge(t)
	if code != exit.NotConverged || o.OnIt != 1 || !strings.Contains(err.Error(), "b: on generation 3") || !strings.Contains(err.Error(), "`ebs-release publish`") {
		t.Errorf("%d, %v, %+v", code, err, o.Members)
	}
	if did := w.did("activate", "stage", "report"); len(did) != 0 {
		t.Errorf("converge fought: %v", did)
	}
	if o, code, err := w.run(t); code != 0 || o.Generation != 4 || o.OnIt != 2 {
		t.Errorf("the next publish: %d, %v, %+v", code, err, o)
	}
}

func TestTheSameGenerationOfAnotherReleaseIsNotCurrent(t *testing.T) {
	w := newWorld("a")
	w.boxes["a"].Release = "r9"
	if got := w.standing("a"); got != publish.StandsBehind {
		t.Errorf("status: %s", got)
	}
	w.boxes["a"].refuses = push.ErrFenced
	if _, code, err := w.converge(t); code != exit.NotConverged || !strings.Contains(err.Error(), "a newer generation is active there") {
		t.Errorf("%d, %v", code, err)
	}
}

// Who may tag a volume can write any number there. One that no publish has made must not use the
// numbers up, nor stand in anybody's way.
func TestAReportThatCannotBeTrueIsNamedAndNotFollowed(t *testing.T) {
	w := newWorld("a", "b")
	for want := int64(2); want < 6; want++ {
		w.boxes["b"].Generation = 1<<53 - 3
		if got := w.standing("b"); got != publish.StandsAhead {
			t.Errorf("status: %s", got)
		}
		w.source = fmt.Sprint("d", want)
		o, code, err := w.run(t)
		if code != 0 || o.Generation != want || o.OnIt != 2 || w.boxes["b"].Generation != want {
			t.Fatalf("generation %d, want %d: %d, %v", o.Generation, want, code, err)
		}
		if !slices.ContainsFunc(w.events, func(e publish.Event) bool {
			return e.Kind == publish.KindWarning && e.Member == "b" && strings.Contains(e.Text, "9007199254740989")
		}) {
			t.Error("nobody was told")
		}
		w.events = nil
	}
	w.boxes["b"].Generation = 1<<53 - 3 // converge puts the tag right as well
	if o, code, err := w.converge(t); code != 0 || o.OnIt != 2 || w.boxes["b"].Generation != 5 {
		t.Errorf("converge: %d, %v, %+v", code, err, o.Members)
	}
}

// Pointer and release volume may both be old copies, far below what members truly have: that, an
// operator says.
func TestAboveLetsAPublishFollowWhatOnlyMembersKnow(t *testing.T) {
	w := newWorld("a")
	w.boxes["a"].Generation, w.boxes["a"].fence = 5000, 5000
	if o, code, _ := w.run(t); code != exit.NotConverged || o.Generation != 2 {
		t.Errorf("without: %d, generation %d", code, o.Generation)
	}
	var o publish.Outcome
	var err error
	synctest.Test(t, func(t *testing.T) {
		p := w.publisher()
		p.Settings.Above = 5000
		o, err = p.Publish(t.Context(), "source")
	})
	if err != nil || o.Generation != 5001 || o.OnIt != 1 {
		t.Errorf("%v, generation %d", err, o.Generation)
	}
}

// Two stores count their generations alike: a member of another one is not current here, and is
// left alone.
func TestAMemberOfAnotherStoreIsNotCurrent(t *testing.T) {
	w := newWorld("a", "b")
	w.pointer.Store, w.boxes["a"].Store, w.boxes["b"].Store = "0123456789abcdef", "0123456789abcdef", "fedcba9876543210"
	if a, b := w.standing("a"), w.standing("b"); a != publish.StandsCurrent || b != publish.StandsOtherStore {
		t.Errorf("status: %s, %s", a, b)
	}
	o, code, err := w.converge(t)
	if code != exit.NotConverged || o.OnIt != 1 || !strings.Contains(err.Error(), "b: its volume is of the pointer store fedcba9876543210") {
		t.Errorf("%d, %v, %+v", code, err, o.Members)
	}
	if did := w.did("activate", "stage", "report"); len(did) != 0 {
		t.Errorf("converge did %v", did)
	}
}
