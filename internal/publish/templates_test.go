package publish_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
)

// followed is a launch template in memory: what it names, or why it cannot.
type followed struct {
	w     *world
	names []string
	err   error
}

func (f *followed) Follow(ctx context.Context, now func(context.Context) (pointer.Pointer, error), say func(bool, string)) error {
	p, err := now(ctx)
	if err == nil {
		err = f.w.do("follow")
	}
	if err != nil || f.err != nil {
		return errors.Join(err, f.err)
	}
	f.names = append(f.names, p.Snapshots[region])
	say(true, "a group does not see it")
	return nil
}

// TestTemplatesFollowWhatThePointerNames: after the members, and only what came to a commit.
func TestTemplatesFollowWhatThePointerNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("1")
		p, f := w.publisher(), &followed{w: w}
		p.Templates = f
		if _, err := p.Publish(t.Context(), "/src"); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(f.names, []string{w.pointer.Snapshots[region]}) {
			t.Errorf("it names %q, the pointer %v", f.names, w.pointer.Snapshots)
		}
		if did := w.did("activate", "follow"); did[len(did)-1] != "follow" {
			t.Errorf("it follows before the members: %q", did)
		}
		warned := func(text string) bool {
			return slices.ContainsFunc(w.events, func(e publish.Event) bool { return e.Kind == publish.KindWarning && strings.Contains(e.Text, text) })
		}
		if !warned("a group does not see it") {
			t.Error("nobody is warned")
		}

		f.err = errors.New("EC2 is away")
		if out, err := p.Converge(t.Context()); err != nil || out.Result != publish.ResultConverged {
			t.Errorf("%+v, %v: what is live stays live", out, err)
		}
		if !warned("is live: EC2 is away. Try: ebs-release converge, which tries again") {
			t.Errorf("nobody is warned: %+v", w.events)
		}

		f.err, f.names = nil, nil
		w.hook = func(call string) error {
			if call == "check" {
				return errors.New("it fails")
			}
			return nil
		}
		if _, err := p.Publish(t.Context(), "/src"); err == nil || len(f.names) > 0 {
			t.Errorf("%v; it names %q", err, f.names)
		}
	})
}
