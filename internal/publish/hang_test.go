package publish_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/exit"
	"ebs-release/internal/publish"
)

// Ten of 50 members hang, in one step after the other, with fewer slots than that: the other 40
// flip within a second of the commit, and none of them is called failed.
func TestTheFlipWaitsForNobodyWhoHangs(t *testing.T) {
	hang := func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	for name, hangs := range map[string]func(b *box){
		"connect":  func(b *box) { b.dialing = hang },
		"stage":    func(b *box) { b.stage = hang },
		"activate": func(b *box) { b.activate = hang },
	} {
		for _, parallel := range []int{1, 4, 64} {
			t.Run(fmt.Sprint(name, " with ", parallel, " slots"), func(t *testing.T) {
				var ids []string
				for i := range 50 {
					ids = append(ids, fmt.Sprintf("m%02d", i))
				}
				w := newWorld(ids...)
				var committed time.Time
				w.hook = func(call string) error {
					if call == "commit" {
						committed = time.Now()
					}
					return nil
				}
				flipped := map[string]time.Duration{}
				for i, id := range ids {
					b := w.boxes[id]
					if i%5 == 0 {
						hangs(b)
						continue
					}
					b.activate = func(context.Context) error {
						w.mu.Lock()
						defer w.mu.Unlock()
						flipped[id] = time.Since(committed)
						return nil
					}
				}
				o, err := w.publishWith(t, func(p *publish.Publisher) {
					p.Settings.Parallel, p.Settings.MemberTimeout, p.Settings.ConvergeDeadline = parallel, 10*time.Minute, 2*time.Minute
				})
				if exit.Code(err) != exit.NotConverged || o.OnIt != 40 || len(flipped) != 40 {
					t.Errorf("%d are on it, %d flipped: %v", o.OnIt, len(flipped), err)
				}
				for id, after := range flipped {
					if after > time.Second {
						t.Errorf("%s flipped %v after the commit", id, after)
					}
				}
				for _, m := range o.Members {
					if m.Standing == publish.StandsCurrent && strings.Contains(err.Error(), m.InstanceID) {
						t.Errorf("%s is well, and named: %v", m.InstanceID, err)
					}
				}
			})
		}
	}
}

// P5 says again and again who is waited for, why, and for how long at most, also while they are
// tried.
func TestWhoIsWaitedForIsTold(t *testing.T) {
	w := newWorld("a", "b", "c", "d", "e")
	var start time.Time
	for _, id := range []string{"b", "c", "d"} {
		w.boxes[id].activate = func(ctx context.Context) error {
			if start.IsZero() || time.Since(start) < 50*time.Second {
				return fmt.Errorf("%s: connection refused", id)
			}
			return nil
		}
	}
	w.hook = func(call string) error {
		if call == "commit" {
			start = time.Now()
		}
		return nil
	}
	o, err := w.publishWith(t, func(*publish.Publisher) {})
	if err != nil || o.OnIt != 5 {
		t.Fatalf("%+v, %v", o, err)
	}
	var told []string
	for _, e := range w.events {
		if strings.HasPrefix(e.Text, "waiting for ") {
			told = append(told, e.Text)
		}
	}
	if len(told) < 3 || !strings.Contains(told[0], "connection refused") || !strings.Contains(told[0], "more at most") {
		t.Errorf("told %q", told)
	}
}
