package publish_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
)

func TestMessageThatIsTooLongIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("1")
		p := w.publisher()
		p.Settings.Message = strings.Repeat("m", pointer.MaxMessage+1)
		_, err := p.Publish(t.Context(), "source")
		if exit.Code(err) != exit.Usage || !strings.Contains(err.Error(), "4097 bytes, want at most 4096") {
			t.Errorf("exit code %d, %v", exit.Code(err), err)
		}
		if len(w.log) != 0 {
			t.Errorf("it did %v", w.log)
		}
	})
}

// programs are the operator's. They only say that they ran.
type programs struct{ *world }

func (p programs) Before(context.Context, string, pointer.Pointer) error { return p.do("before") }
func (p programs) Verify(_ context.Context, next pointer.Pointer) error {
	return p.do(fmt.Sprintf("verify %d %s %s", next.Generation, next.Release, next.Digest))
}
func (p programs) After(context.Context, publish.Outcome) error { return p.do("after") }

func TestProgramsBeforeRunAtTheEndOfTheChecksAndNotInAPreview(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("1")
		p := w.publisher()
		p.Hooks = programs{w}
		if _, err := p.Preview(t.Context()); err != nil || len(w.did("before", "after")) != 0 {
			t.Errorf("preview did %v, %v", w.log, err)
		}
		if _, err := p.Publish(t.Context(), "source"); err != nil {
			t.Fatal(err)
		}
		want := []string{"before", "ingest", "commit", "after"}
		if did := w.did(want...); !slices.Equal(did, want) {
			t.Errorf("publish did %v", did)
		}
		if last := w.log[slices.Index(w.log, "before")-1]; last != "dial 1" {
			t.Errorf("the programs ran after %q", last)
		}
		back := func(context.Context, pointer.Pointer) (publish.Target, error) {
			return publish.Target{Generation: 1, Release: "r1", Digest: "d1", SnapshotID: "snap-1"}, nil
		}
		if _, err := p.Rollback(t.Context(), back); err != nil || len(w.did("before")) != 2 {
			t.Errorf("rollback: %v, %v", w.did("before"), err)
		}
	})
}

func TestRegionThatThePointerCannotNameIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("1")
		p := w.publisher()
		p.Settings.Region = "Frankfurt"
		_, err := p.Publish(t.Context(), "source")
		if exit.Code(err) != exit.Unchanged || !strings.Contains(err.Error(), `"Frankfurt" is not a region`) || len(w.log) != 0 {
			t.Errorf("exit code %d, %v; it did %v", exit.Code(err), err, w.log)
		}
	})
}

func TestTagThatIsNoGenerationStopsNobody(t *testing.T) {
	w := newWorld("a", "b")
	w.boxes["a"].Generation, w.boxes["a"].Ignored = 0, "9223372036854775807"
	o, _, err := w.run(t)
	if err != nil || o.Generation != 2 || o.OnIt != 2 || w.boxes["a"].fence != 2 {
		t.Errorf("%+v, %v", o, err)
	}
	warned := slices.DeleteFunc(slices.Clone(w.events), func(e publish.Event) bool { return e.Kind != publish.KindWarning })
	if len(warned) != 1 || warned[0].Member != "a" || !strings.Contains(warned[0].Text, "9223372036854775807") {
		t.Errorf("warnings %+v", warned)
	}
}

func TestTooFewOpenFilesForTheMembersIsRefusedFirst(t *testing.T) {
	for _, tc := range []struct {
		files uint64
		code  int
	}{{0, 0}, {74, 0}, {73, exit.Unchanged}} {
		w := newWorld("a", "b")
		_, err := w.publishWith(t, func(p *publish.Publisher) { p.Settings.OpenFiles = tc.files })
		if exit.Code(err) != tc.code || err != nil && !strings.Contains(err.Error(), "2 members want 74 open files, and this process may have 73. Try: ulimit -n 74") {
			t.Errorf("%d: %v", tc.files, err)
		}
		if tc.code != 0 && len(w.did("dial", "ingest")) > 0 {
			t.Errorf("%d: %v", tc.files, w.did(""))
		}
	}
}

// The programs that look at the release come before any member has it, and what they refuse is seen
// by nobody. What is gone back to was let through once.
func TestProgramsVerifyBeforeAnyMemberHasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("1")
		p := w.publisher()
		p.Hooks = programs{w}
		o, err := p.Publish(t.Context(), "source")
		if err != nil {
			t.Fatal(err)
		}
		verify := fmt.Sprintf("verify %d %s %s", o.Generation, o.Release, o.Digest)
		want := []string{"ingest", verify, "stage 1", "commit"}
		if did := w.did(want...); !slices.Equal(did, want) {
			t.Errorf("publish did %v", w.log)
		}
		w.log = nil
		w.hook = func(call string) error {
			if strings.HasPrefix(call, "verify ") {
				return errors.New("10-smoke ended with exit code 7: no index.html")
			}
			return nil
		}
		o, err = p.Publish(t.Context(), "source 2")
		if exit.Code(err) != exit.Unchanged || !strings.Contains(err.Error(), "10-smoke ended with exit code 7: no index.html") || o.Committed {
			t.Errorf("%+v, %v", o, err)
		}
		if did := w.did("stage 1", "commit", "activate 1", "after"); len(did) != 0 {
			t.Errorf("after a refusal it did %v", did)
		}
		back := func(context.Context, pointer.Pointer) (publish.Target, error) {
			return publish.Target{Generation: 1, Release: "r1", Digest: "d1", SnapshotID: "snap-1"}, nil
		}
		if _, err := p.Rollback(t.Context(), back); err != nil {
			t.Errorf("rollback: %v", err)
		}
	})
}
