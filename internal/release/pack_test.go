package release

import (
	"bytes"
	"math/rand/v2"
	"os"
	"reflect"
	"testing"
	"testing/iotest"
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
		was, is, err := differing(bytes.NewReader(base.text()), bytes.NewReader(next.text()))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := Diff(was, is), Diff(base, next); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: got %+v, want %+v", seed, got, want)
		}
		got, err := contentNotIn(iotest.OneByteReader(bytes.NewReader(base.text())), is)
		if want := Missing(base, next); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: got %v, want %v (%v)", seed, got, want, err)
		}
	}
}

// Larger than what is looked at at a time, and changed at the ends of it.
func TestPackOfLargeManifests(t *testing.T) {
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
		next.sort()
		was, is, err := differing(bytes.NewReader(base.text()), bytes.NewReader(next.text()))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := Diff(was, is), Diff(base, next); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: got %+v, want %+v", seed, got, want)
		}
	}
}

func TestPackOfADamagedManifestIsAnError(t *testing.T) {
	good := large(300).text()
	for name, bad := range map[string][]byte{
		"cut off":   good[:len(good)-1],
		"no lines":  bytes.Repeat([]byte("x"), 10*maxLine),
		"not one":   []byte("hello\n"),
		"long line": append(bytes.Repeat([]byte("x"), 10*maxLine), good...),
	} {
		if _, _, err := differing(bytes.NewReader(bad), bytes.NewReader(nil)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// BenchmarkPack works out a push of 200 files of 200,000.
func BenchmarkPack(b *testing.B) {
	tree := Tree{b.TempDir()}
	if err := tree.Init(0, 0); err != nil {
		b.Fatal(err)
	}
	base := large(200_000)
	next := append(Manifest(nil), base...)
	for i := 0; i < len(next); i += 1000 {
		if next[i].Type == 'f' {
			next[i].SHA256[0]++
		}
	}
	const old, id = "20260101T000000Z-000000000000", "20260102T000000Z-000000000000"
	for id, m := range map[string]Manifest{old: base, id: next} {
		if err := os.WriteFile(tree.Root+"/"+stateDir+"/"+id+manifestExt, m.text(), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if p, err := tree.Pack(old, id); err != nil || len(p.Missing) == 0 {
			b.Fatal(err)
		}
	}
}
