package manifest

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"testing/iotest"
)

// The short way, through the lines that differ, has to end where the long one does.
func TestDifferingIsWhatTheWholeManifestsSay(t *testing.T) {
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
		was, is, err := Differing(bytes.NewReader(base.Text()), bytes.NewReader(next.Text()))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := Diff(was, is), Diff(base, next); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: got %+v, want %+v", seed, got, want)
		}
		got, err := ContentNotIn(iotest.OneByteReader(bytes.NewReader(base.Text())), is)
		var want []Entry // what the whole manifests say
		for _, e := range next {
			if e.Type == 'f' && !slices.ContainsFunc(base, func(b Entry) bool { return b.Type == 'f' && b.SHA256 == e.SHA256 }) {
				want = append(want, e)
			}
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: got %v, want %v (%v)", seed, got, want, err)
		}
	}
}

// Larger than what is looked at at a time, and changed at the ends of it.
func TestDifferingOfLargeManifests(t *testing.T) {
	base := large(20_000)
	for seed := range uint64(5) {
		r := rand.New(rand.NewPCG(3, seed))
		next := append(Manifest(nil), base...)
		for i := 0; i < len(next); i += 1 + r.IntN(2000) {
			switch {
			case next[i].Type != 'f':
			case r.IntN(2) == 0:
				next[i].SHA256[1]++
			default:
				next[i].Path += " with a longer name"
			}
		}
		next = append(next[:100], next[150:len(next)-20]...)
		next.Sort()
		was, is, err := Differing(bytes.NewReader(base.Text()), bytes.NewReader(next.Text()))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := Diff(was, is), Diff(base, next); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: got %+v, want %+v", seed, got, want)
		}
	}
}

func TestDifferingOfADamagedManifestIsAnError(t *testing.T) {
	good := large(300).Text()
	for name, bad := range map[string][]byte{
		"cut off":   good[:len(good)-1],
		"no lines":  bytes.Repeat([]byte("x"), 10*MaxLine),
		"not one":   []byte("hello\n"),
		"long line": append(bytes.Repeat([]byte("x"), 10*MaxLine), good...),
	} {
		if _, _, err := Differing(bytes.NewReader(bad), bytes.NewReader(nil)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// BenchmarkDiffering works out a push of 200 files of 200,000.
func BenchmarkDiffering(b *testing.B) {
	base := large(200_000)
	next := slices.Clone(base)
	for i := 0; i < len(next); i += 1000 {
		if next[i].Type == 'f' {
			next[i].SHA256[0]++
		}
	}
	old, text := base.Text(), next.Text()
	for b.Loop() {
		_, is, err := Differing(bytes.NewReader(old), bytes.NewReader(text))
		if err == nil {
			_, err = ContentNotIn(bytes.NewReader(old), is)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
