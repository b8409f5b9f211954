package release

import (
	"math/rand/v2"
	"reflect"
	"testing"
)

// The short way, through the lines that differ, has to end where the long one does.
func TestPackIsWhatTheWholeManifestsSay(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(2, seed))
		base, next := randomTree(r, r.IntN(60)), randomTree(r, r.IntN(60))
		if seed%2 == 0 { // mostly the same
			next = append(Manifest(nil), base...)
			for i := range next {
				if next[i].Type == 'f' && r.IntN(5) == 0 {
					next[i].Size = int64(r.IntN(5))
					next[i].SHA256[0]++
				}
			}
		}
		was, is, err := differing(base.text(), next.text())
		if err != nil {
			t.Fatal(err)
		}
		if got, want := Diff(was, is), Diff(base, next); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: got %+v, want %+v", seed, got, want)
		}
		if got, want := contentNotIn(base.text(), is), Missing(base, next); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: got %v, want %v", seed, got, want)
		}
	}
}

func BenchmarkPack(b *testing.B) {
	base := large(200_000)
	next := append(Manifest(nil), base...)
	for i := 0; i < len(next); i += 1000 {
		if next[i].Type == 'f' {
			next[i].SHA256[0]++
		}
	}
	old, text := base.text(), next.text()
	for b.Loop() {
		was, is, err := differing(old, text)
		if err != nil || len(was) == 0 {
			b.Fatal(err)
		}
		_ = contentNotIn(old, is)
		_ = digestOf(text)
	}
}
