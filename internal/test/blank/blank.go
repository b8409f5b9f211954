// Package blank gives tests a release volume with nothing on it, in a directory of its own.
package blank

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"ebs-release/internal/release"

	"golang.org/x/sys/unix"
)

// Volume is root's, as most tests want it; it is closed when the test ends.
func Volume(t testing.TB) *release.Volume {
	t.Helper()
	v, err := release.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	if err := v.Init(0, 0); err != nil {
		t.Fatal(err)
	}
	return v
}

// Meanwhile holds the lock of a volume until somebody who was given ctx has waited for it for a
// second. Then another verb has made a release current there, and its programs have succeeded.
func Meanwhile(t testing.TB, v *release.Volume, id string, generation int64) (ctx context.Context) {
	t.Helper()
	lock, err := os.Open(v.Root() + "/.ebs-release/lock")
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lock.Close() })
	return release.TellWaits(t.Context(), func(string) {
		if err := errors.Join(Flip(v, id, generation), lock.Close()); err != nil {
			t.Error(err)
		}
	})
}

// Flip is what another verb has done when it makes a release current, and its programs have
// succeeded: it takes no lock.
func Flip(v *release.Volume, id string, generation int64) error {
	state, stamp := v.Root()+"/.ebs-release/", fmt.Appendf(nil, "%d %s\n", generation, id)
	return errors.Join(
		os.WriteFile(state+"generation", stamp, 0o644), os.WriteFile(state+"activated", stamp, 0o644),
		os.Symlink("releases/"+id, state+".flip"), os.Rename(state+".flip", v.Root()+"/current"),
	)
}
