package follow

import (
	"errors"
	"testing"
	"time"

	"ebs-release/internal/store"
)

// A store that says when to come again is not asked before.
func TestTheStoresWaitCounts(t *testing.T) {
	w := newWorld(t, 1)
	const wait = 25 * time.Second
	w.follow(t, w.follower(), func() {
		w.away = &store.Error{Op: "read pointer", On: w.Place(), Err: errors.New("503"), Wait: wait}
		w.pass(10 * time.Minute)
		for i := 1; i < len(w.looks); i++ {
			if pause := w.looks[i].Sub(w.looks[i-1]); pause < wait {
				t.Errorf("it asks again after %v", pause)
			}
		}
		if len(w.looks) < 5 {
			t.Errorf("%d looks", len(w.looks))
		}
	})
}
