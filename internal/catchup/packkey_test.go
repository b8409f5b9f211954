package catchup

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"ebs-release/internal/manifest"
	"ebs-release/internal/pack"
)

// While the key of the packs is rotated each pack has the new one in it, for who has only the old
// one: so a member that nobody logs in to goes on when the old one is dropped.
func TestNewPackKeyTravelsInAPack(t *testing.T) {
	for name, served := range map[string]bool{"at boot": false, "beside what is served": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2, true)
			old, err := w.server.PackKey()
			if err != nil {
				t.Fatal(err)
			}
			both, err := NewPackKey(old)
			if err := errors.Join(err, w.server.SetPackKey(t.Context(), both)); err != nil {
				t.Fatal(err)
			}
			w.publish(t, 3, true)
			newest, rotating := NewestPackKey(both)
			if err := w.server.SetPackKey(t.Context(), newest); err != nil || !rotating {
				t.Fatal(err)
			}
			w.publish(t, 4, true)
			if way, err := w.volume(served).To(t.Context(), w.pointer()); err != nil || way.Packs != 3 {
				t.Fatalf("%+v, %v", way, err)
			}
			w.holds(t, w.releases[3])
			if got, err := w.member.PackKey(); err != nil || got != both {
				t.Errorf("the member did not take the keys over: %v", err)
			}

			// A member that has heard of a later rotation does not go back by an old pack.
			later, err := NewPackKey(newest)
			if err := errors.Join(err, w.member.SetPackKey(t.Context(), later), w.volume(served).takePackKeys(t.Context(), both)); err != nil {
				t.Fatal(err)
			}
			if got, err := w.member.PackKey(); err != nil || got != later {
				t.Errorf("the member went back to an older key: %v", err)
			}
		})
	}
}

// What everybody can read has no keys in it.
func TestKeysInAPackThatIsNotEncryptedAreRefused(t *testing.T) {
	w := newWorld(t, 2, false)
	var plain bytes.Buffer
	seal, err := pack.NewSeal(&plain, nil)
	if err != nil {
		t.Fatal(err)
	}
	head := pack.Head{From: w.edges[0].From, To: w.edges[0].To, Release: w.edges[0].Release, Keys: "AGE-SECRET-KEY-1,AGE-SECRET-KEY-1"}
	none := func(func(manifest.Change, error) bool) {}
	if err := pack.Write(t.Context(), seal, head, none, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := open(bytes.NewReader(plain.Bytes()), ""); err == nil || !strings.Contains(err.Error(), "is not encrypted") || strings.Contains(err.Error(), "AGE-") {
		t.Errorf("%v", err)
	}
}
