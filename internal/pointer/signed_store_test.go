package pointer

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStoreSignsWhatItWrites(t *testing.T) {
	s, dir := directory(t)
	secret := key(t)
	s.SignWith([]PublicKey{secret.Public()}, secret)
	swap(t, s, 0, signedSample(1))
	document, err := os.ReadFile(filepath.Join(dir, jsonName))
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckSignature(document, []PublicKey{secret.Public()}); err != nil {
		t.Fatal(err)
	}
	if p, err := s.Read(t.Context()); err != nil || p.Schema != Signed || p.Revision != 1 {
		t.Errorf("read back: %+v, %v", p, err)
	}
}

// What a store's owner planted must not come back under our signature.
func TestStoreDoesNotGoOnFromWhatNobodySigned(t *testing.T) {
	secret, other := key(t), key(t)
	foreign, err := signedSample(7).Sign(other)
	if err != nil {
		t.Fatal(err)
	}
	for name, planted := range map[string][]byte{"unsigned": sample(7).Render(), "another key": foreign} {
		t.Run(name, func(t *testing.T) {
			s, dir := directory(t)
			s.SignWith([]PublicKey{secret.Public()}, secret)
			swap(t, s, 0, signedSample(1))
			before := at(t, s, 1)
			if err := os.WriteFile(filepath.Join(dir, jsonName), planted, 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Read(t.Context()); !errors.Is(err, ErrUnsigned) || !strings.Contains(err.Error(), "Try: ") {
				t.Errorf("read: %v", err)
			}
			if err := s.CompareAndSwap(t.Context(), before, signedSample(8)); !errors.Is(err, ErrUnsigned) {
				t.Errorf("write: %v", err)
			}
			if _, err := s.Lock(t.Context(), "me"); !errors.Is(err, ErrUnsigned) {
				t.Errorf("lock: %v", err)
			}
		})
	}
}

// The snapshot of a generation is named when it is completed: after the commit, in the same
// generation.
func TestSnapshotOfAGenerationComesLater(t *testing.T) {
	s, dir := directory(t)
	secret := key(t)
	s.SignWith([]PublicKey{secret.Public()}, secret)
	first := signedSample(1)
	first.SnapshotOf = nil
	swap(t, s, 0, first)
	next := signedSample(2)
	next.SnapshotOf = &Held{1, first.Release, first.Digest}
	next.Release, next.Digest = next.Edges[0].Release, next.Edges[0].To
	swap(t, s, 1, next)
	history := func(want ...string) {
		t.Helper()
		entries, err := s.History(t.Context())
		if err != nil || len(entries) != len(want) {
			t.Fatalf("history %+v, %v", entries, err)
		}
		for i, e := range entries {
			if e.Snapshots["eu-west-1"] != want[i] {
				t.Errorf("generation %d: snapshots %v, want %q", e.Generation, e.Snapshots, want[i])
			}
		}
	}
	history("snap-0123456789abcdef0", "")
	if err := s.Record(t.Context(), Entry{Verb: "publish", Committed: true, Generation: 2, Result: "converged"}); err != nil {
		t.Fatal(err)
	}
	was := at(t, s, 2)
	now := was
	now.SnapshotOf, now.Snapshots = nil, map[string]string{"eu-west-1": "snap-0000000000000000f"}
	if err := s.CompareAndSwap(t.Context(), was, now); err != nil {
		t.Fatal(err)
	}
	history("snap-0123456789abcdef0", "snap-0000000000000000f")
	if plain, err := os.ReadFile(filepath.Join(dir, plainName)); err != nil || string(plain) != "snap-0000000000000000f\n" {
		t.Errorf("snap.txt: %q, %v", plain, err)
	}
	// Whoever read it before that has lost.
	if err := s.CompareAndSwap(t.Context(), was, now); !errors.Is(err, ErrConflict) {
		t.Errorf("the same once more: %v", err)
	}
	other := at(t, s, 2)
	moved := other
	moved.Release, moved.Digest = first.Release, first.Digest
	if err := s.CompareAndSwap(t.Context(), other, moved); !errors.Is(err, ErrConflict) {
		t.Errorf("another release under the same generation: %v", err)
	}
}

// What a person looked at and found right becomes ours, and nothing else does.
func TestStoreSignsWhatWasLookedAt(t *testing.T) {
	secret, other := key(t), key(t)
	foreign := signedSample(7)
	foreign.Revision, foreign.Keys = 3, []string{other.Public().String()}
	byAnother, err := foreign.Sign(other)
	if err != nil {
		t.Fatal(err)
	}
	unsigned := sample(7)
	unsigned.Revision = 3
	for name, tc := range map[string]struct {
		document []byte
		by       []string
	}{"unsigned": {unsigned.Render(), nil}, "another key": {byAnother, []string{other.Public().ID()}}} {
		t.Run(name, func(t *testing.T) {
			s, dir := directory(t)
			at := filepath.Join(dir, jsonName)
			if err := os.WriteFile(at, tc.document, 0o644); err != nil {
				t.Fatal(err)
			}
			s.SignWith([]PublicKey{secret.Public()}, secret)
			found, err := s.Look(t.Context())
			if err != nil || found.Generation != 7 || strings.Join(found.SignedBy(), " ") != strings.Join(tc.by, " ") {
				t.Fatalf("%+v by %q, %v", found.Pointer, found.SignedBy(), err)
			}
			if err := found.CheckSignature(s.trusted); !errors.Is(err, ErrUnsigned) {
				t.Errorf("before: %v", err)
			}
			if err := s.SignFound(t.Context(), found); err != nil {
				t.Fatal(err)
			}
			p, err := s.Read(t.Context())
			if err != nil || p.Generation != 7 || p.Revision != 4 || p.Release != found.Release || p.Digest != found.Digest || len(p.Keys) != 0 {
				t.Errorf("after: %+v, %v", p, err)
			}
			signed, err := os.ReadFile(at)
			if err != nil {
				t.Fatal(err)
			}
			// It was looked at before; since then it is another document.
			if err := s.SignFound(t.Context(), found); !errors.Is(err, ErrConflict) {
				t.Errorf("the same once more: %v", err)
			}
			if now, err := os.ReadFile(at); err != nil || !bytes.Equal(now, signed) {
				t.Errorf("a conflict wrote %s, %v", now, err)
			}
		})
	}
	s, _ := directory(t)
	if err := s.SignFound(t.Context(), Found{}); err == nil {
		t.Error("nothing was signed, without a key")
	}
}

// Who knows the keys, and has none, reads.
func TestStoreWithoutTheKeyWritesNoPointer(t *testing.T) {
	s, dir := directory(t)
	secret := key(t)
	s.SignWith([]PublicKey{secret.Public()}, secret)
	swap(t, s, 0, signedSample(1))
	before, err := os.ReadFile(filepath.Join(dir, jsonName))
	if err != nil {
		t.Fatal(err)
	}
	s.SignWith([]PublicKey{secret.Public()})
	if p, err := s.Read(t.Context()); err != nil || p.Generation != 1 {
		t.Errorf("read: %+v, %v", p, err)
	}
	if err := s.CompareAndSwap(t.Context(), at(t, s, 1), signedSample(2)); err == nil {
		t.Error("it was written")
	}
	if now, err := os.ReadFile(filepath.Join(dir, jsonName)); err != nil || !bytes.Equal(now, before) {
		t.Errorf("it is %s, %v", now, err)
	}
}
