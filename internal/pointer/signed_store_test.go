package pointer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStoreSignsWhatItWrites(t *testing.T) {
	s, dir := directory(t)
	secret := key(t)
	s.SignWith(secret, secret.Public())
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
			s.SignWith(secret, secret.Public())
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
	s.SignWith(secret, secret.Public())
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
