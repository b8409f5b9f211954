package volume_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"ebs-release/internal/volume"
)

// TestPausesHaveFullJitter: also once they have grown to their bound, so that those who came
// together do not go on coming together (row 16).
func TestPausesHaveFullJitter(t *testing.T) {
	p := volume.Pauses{Trouble: 5 * time.Second, Throttled: 10 * time.Second, Tries: 8}
	throttled, trouble := api("RequestLimitExceeded", "Request limit exceeded."), api("InternalError", "")
	for _, tc := range []struct {
		try  int
		err  error
		most time.Duration
	}{
		{1, throttled, 2 * time.Second}, {2, throttled, 4 * time.Second}, {900, throttled, 10 * time.Second},
		{1, trouble, 2 * time.Second}, {7, trouble, 5 * time.Second},
	} {
		var all []time.Duration
		for range 1000 {
			pause, err := p.BackoffDelay(tc.try, tc.err)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, pause)
		}
		if low, high := slices.Min(all), slices.Max(all); high > tc.most || high < tc.most*9/10 || low > tc.most/10 {
			t.Errorf("try %d after %v: %v to %v, want all up to %v", tc.try, tc.err, low, high, tc.most)
		}
	}
	if _, err := p.BackoffDelay(8, trouble); !errors.Is(err, trouble) {
		t.Errorf("after 8 tries: %v", err)
	}
	if _, err := p.BackoffDelay(59, throttled); err != nil {
		t.Errorf("throttled for long: %v", err)
	}
}
