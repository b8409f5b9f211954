package follow

import (
	"errors"
	"testing"

	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/test/blank"
)

// Who had asked for drain.d was killed before it began: nobody remembers it, and the pointer cannot
// be read, or is refused.
func TestADrainThatComesLate(t *testing.T) {
	for name, spoil := range map[string]func(w *world){
		"the store is away":      func(w *world) { w.away = errAway },
		"the pointer is refused": func(w *world) { w.write(w.signed(w.names(2, 2), other(t))) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2)
			w.follow(t, w.follower(), func() {
				w.pass(longest)
				spoil(w)
				w.pass(longest)
				ran := w.ran
				v, err := release.Open(w.member)
				must(t, err)
				must(t, errors.Join(v.MarkDrained(w.ctx), v.Close()))
				w.pass(mostPause)
				w.on(1, 1)
				if w.ran != ran+1 || w.isDrained() {
					t.Errorf("programs ran %d times, drained %v", w.ran-ran, w.isDrained())
				}
			})
		})
	}
}

func other(t *testing.T) pointer.SecretKey {
	t.Helper()
	secret, err := pointer.NewKey()
	must(t, err)
	return secret
}

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
