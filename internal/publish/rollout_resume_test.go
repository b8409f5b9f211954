package publish_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/trouble"
	"ebs-release/internal/volume"
)

// Who carries a rollout on waits for what the programs of a member say now: their word of before
// is still there, as a member that follows looks at the pointer now and then.
func TestAResumeTellsOldWordsFromNew(t *testing.T) {
	for name, tc := range map[string]struct{ current, fixed bool }{
		"stage.d, and the cause is gone":      {false, true},
		"stage.d, and it refuses again":       {false, false},
		"a program failed, and does no more":  {true, true},
		"a program failed, and does so again": {true, false},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTrial("1", "a", "b", "c", "d")
			tr.terms = pointer.Terms{HealthTimeout: 20 * time.Minute, NoRollback: true}
			var moved time.Time
			var revision, looked int64
			resumed := false
			tr.onList = func(int) {
				tr.mu.Lock()
				defer tr.mu.Unlock()
				if tr.pointer.Revision != revision {
					revision, moved = tr.pointer.Revision, time.Now()
				}
				if time.Since(moved) < 15*time.Second && looked > 0 { // the members have not looked
					return
				}
				looked = revision
				for _, b := range tr.boxes {
					to := tr.pointer.For(pointer.Instance{ID: b.InstanceID, Zone: b.AvailabilityZone})
					bad := to.Release == "r2" && (!resumed || !tc.fixed)
					switch {
					case bad && tc.current:
						b.flip(to)
						b.State, b.Trouble = volume.StateHookFailed, trouble.Trouble{Generation: to.Generation, Revision: revision, Why: "it is bad"}
					case bad:
						b.Trouble = trouble.Trouble{Generation: to.Generation, Revision: revision, Refused: true, Why: "it is bad"}
					default:
						b.flip(to)
					}
				}
			}
			follows := func(do func(context.Context, *publish.Publisher) (publish.Outcome, error)) func(context.Context, *publish.Publisher) (publish.Outcome, error) {
				return func(ctx context.Context, p *publish.Publisher) (publish.Outcome, error) {
					p.Dialer = nil
					p.Settings.ConvergeDeadline = 5 * time.Minute
					return do(ctx, p)
				}
			}
			if _, code, err := tr.do(t, follows(source)); code != exit.Paused || !strings.Contains(err.Error(), "it is bad") {
				t.Fatalf("code %d, %v", code, err)
			}
			resumed, moved, looked = true, time.Time{}, 1
			revision = 0
			o, code, err := tr.do(t, follows(resume))
			want := exit.Paused
			if tc.fixed {
				want = exit.Done
			}
			if code != want {
				t.Fatalf("code %d, %v", code, err)
			}
			if took := time.Duration(o.Milliseconds) * time.Millisecond; took > 10*time.Minute {
				t.Errorf("it took %v", took)
			}
		})
	}
}
