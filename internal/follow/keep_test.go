package follow

import (
	"slices"
	"testing"

	"ebs-release/internal/release"
)

// What is kept beside the current release is what was committed latest, by the signed pointer: not
// what this member happened to serve before.
func TestWhatWasCommittedLatestIsKept(t *testing.T) {
	w := newWorld(t, 3)
	w.follow(t, w.follower(), func() {
		for n := 2; n <= 3; n++ {
			w.say(w.names(int64(n), n))
			w.pass(longest)
			w.on(int64(n), n)
		}
	})
	f := w.follower()
	f.Keep = 2
	slices.Reverse(w.edges) // 2 was committed after 3, and this member has not seen it
	w.follow(t, f, func() {
		w.say(w.names(5, 1))
		w.pass(longest)
		w.on(5, 1)
	})
	v, err := release.Open(w.member)
	must(t, err)
	defer v.Close()
	if held, err := v.Releases(); err != nil || len(held) != 2 || !slices.Contains(held, w.releases[1].ID) {
		t.Errorf("it keeps %v, %v; want %s and %s", held, err, w.releases[0].ID, w.releases[1].ID)
	}
}
