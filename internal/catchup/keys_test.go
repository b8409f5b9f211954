package catchup

import (
	"testing"

	"ebs-release/internal/pointer"
	"ebs-release/internal/release"
	"ebs-release/internal/test/blank"
)

// Only what the keys of a volume signed gives it others.
func TestKeysComeFromASignedPointerAlone(t *testing.T) {
	w := newWorld(t, 2, false)
	other, err := pointer.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	p := w.pointer()
	p.Keys = []string{other.Public().String()}
	for name, tc := range map[string]struct {
		on   *release.Volume
		by   pointer.SecretKey
		keys int // -1: it is not believed
	}{
		"the volume's key":     {w.member, w.secret, 1},
		"the key that it adds": {w.member, other, -1},
		"no key on the volume": {blank.Volume(t), other, 0},
	} {
		document, err := p.Sign(tc.by)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Believe(tc.on, document, nil)
		if believed := err == nil; believed != (tc.keys >= 0) || len(got.Keys) != max(tc.keys, 0) {
			t.Errorf("%s: keys %q, %v", name, got.Keys, err)
		}
	}
}
