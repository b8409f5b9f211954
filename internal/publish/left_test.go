package publish_test

import (
	"testing"
	"time"

	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
)

// A publish that was killed after its commit is told from one that is at work, and from one that
// somebody else has ended.
func TestIsLeft(t *testing.T) {
	now := time.Now()
	commit := func(ago time.Duration) pointer.Entry {
		return pointer.Entry{Time: now.Add(-ago), Committed: true, Generation: 7, Result: pointer.ResultCommitted}
	}
	for name, tc := range map[string]struct {
		past  []pointer.Entry
		force bool
		want  bool
	}{
		"killed":            {[]pointer.Entry{commit(time.Hour)}, false, true},
		"at work, perhaps":  {[]pointer.Entry{commit(time.Minute)}, false, false},
		"but surely gone":   {[]pointer.Entry{commit(time.Minute)}, true, true},
		"it said its end":   {[]pointer.Entry{{Time: now.Add(-time.Hour), Committed: true, Generation: 7, Verb: "publish"}}, true, false},
		"converged since":   {[]pointer.Entry{commit(time.Hour), {Verb: "converge", Generation: 7, Result: publish.ResultConverged}}, true, false},
		"tried in vain":     {[]pointer.Entry{commit(time.Hour), {Verb: "converge", Generation: 7, Result: publish.ResultNotConverged}}, false, true},
		"an older one":      {[]pointer.Entry{{Time: now.Add(-time.Hour), Committed: true, Generation: 6}}, true, false},
		"nothing published": {nil, true, false},
	} {
		if got := publish.IsLeft(pointer.Pointer{Generation: 7}, tc.past, now, tc.force); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
