package follow

import (
	"errors"
	"testing"

	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/test/blank"
)

// drain.d has run, and before the flip another verb puts something into service: that goes out of
// service by drain.d, too.
func TestADrainCountsForWhatItTookOutOfService(t *testing.T) {
	for name, other := range map[string]func(w *world, v *release.Volume) error{
		"another release": func(w *world, v *release.Volume) error { return blank.Flip(v, w.releases[1].ID, 2) },
		"the same again":  func(w *world, v *release.Volume) error { return v.MarkDone(w.ctx, w.releases[0].ID, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 3)
			w.follow(t, w.follower(), func() {
				w.pass(longest)
				w.drain = func(pointer.Pointer) error {
					if w.drains > 1 {
						return nil
					}
					v, err := release.Open(w.member)
					if err != nil {
						return err
					}
					return errors.Join(other(w, v), v.Close())
				}
				w.say(w.names(3, 3))
				w.pass(longest)
				w.on(3, 3)
				if w.drains != 2 || w.ran != 1 || w.isDrained() {
					t.Errorf("%d drains, %d runs, drained %v", w.drains, w.ran, w.isDrained())
				}
			})
		})
	}
}
