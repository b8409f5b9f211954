// Package blank gives tests a release volume with nothing on it, in a directory of its own.
package blank

import (
	"testing"

	"ebs-release/internal/release"
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
