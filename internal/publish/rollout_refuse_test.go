package publish_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/push"
	"ebs-release/internal/trouble"
	"ebs-release/internal/volume"
)

// follows has the members of a trial follow: each time that they are listed, each goes where the
// pointer says, as far as it can.
func (tr *trial) follows(goes func(b *box, to pointer.Pointer)) {
	tr.onList = func(int) {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		for _, b := range tr.boxes {
			to := tr.pointer.For(pointer.Instance{ID: b.InstanceID, Zone: b.AvailabilityZone})
			if b.Generation != to.Generation {
				goes(b, to)
			}
		}
	}
}

// flip is what a member does that follows.
func (b *box) flip(to pointer.Pointer) {
	b.Generation, b.Release, b.State, b.fence, b.Trouble = to.Generation, to.Release, volume.StateReady, to.Generation, trouble.Trouble{}
}

// What stage.d says of a release is the word of the member, and the step does not wait for another
// one; what may pass by itself has its time, and is named.
func TestAMemberRefusesTheRelease(t *testing.T) {
	const patience = 20 * time.Minute
	for name, tc := range map[string]struct {
		follow, refused bool
		want            string
	}{
		"follow, stage.d": {true, true, "it refuses the release: stage.d: 10-smoke: no index.html"},
		"follow, drain.d": {true, false, "stage.d: 10-smoke: no index.html, after 20m0s"},
		"ssh, stage.d":    {false, true, "a program there refuses the release: stage.d: 10-smoke: no index.html"},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTrial("1", "a", "b", "c", "d")
			tr.terms.HealthTimeout = patience
			const why = "stage.d: 10-smoke: no index.html"
			tr.follows(func(b *box, to pointer.Pointer) {
				switch {
				case !tc.follow:
				case to.Release == "r2":
					b.Trouble = trouble.Trouble{Generation: to.Generation, Refused: tc.refused, Why: why}
				default:
					b.flip(to)
				}
			})
			for id, b := range tr.boxes {
				b.stage = func(context.Context) error {
					if id != "d" && tr.fence < 3 {
						return fmt.Errorf("%w: %s", push.ErrRefused, why)
					}
					return nil
				}
			}
			o, code, err := tr.do(t, func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
				if tc.follow {
					p.Dialer = nil
				}
				p.Settings.ConvergeDeadline = time.Minute
				return p.Publish(ctx, "source")
			})
			if code != exit.RolledBack || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("code %d, %v", code, err)
			}
			if took := time.Duration(o.Milliseconds) * time.Millisecond; (took < patience) != tc.refused {
				t.Errorf("it took %v", took)
			}
			told := func(e publish.Event) bool { return e.Kind == publish.KindFailed && strings.Contains(e.Text, why) }
			if n := len(slices.DeleteFunc(slices.Clone(tr.events), func(e publish.Event) bool { return !told(e) })); n == 0 || n > 3 {
				t.Errorf("it is told %d times", n)
			}
		})
	}
}

// What a member says counts for the generation that it is to be on, and while it is not there.
func TestWhatAMemberSaysInAReport(t *testing.T) {
	p := pointer.Pointer{Generation: 2, Release: "r2"}
	for name, tc := range map[string]struct {
		generation, about int64
		state             string
		says              string
	}{
		"behind":                        {1, 2, volume.StateReady, "it refuses the release: no"},
		"its programs fail":             {2, 2, volume.StateHookFailed, "no"},
		"of a release that is over":     {1, 1, volume.StateReady, ""},
		"of one that is not wanted now": {1, 3, volume.StateReady, ""},
		"it is there":                   {2, 2, volume.StateReady, ""},
		"it boots":                      {2, 2, volume.StateBooting, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newWorld().launch("a", tc.generation)
			b.State, b.Trouble = tc.state, trouble.Trouble{Generation: tc.about, Refused: true, Why: "no"}
			if view := publish.View(b.Member, p); view.Error != tc.says || (view.Cause == "no") != (tc.says != "") {
				t.Errorf("%+v", view)
			}
		})
	}
}
