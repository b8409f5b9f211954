package manifest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"strings"
	"testing"
)

func readerOf(m Manifest) *bytes.Reader { return bytes.NewReader(m.Text()) }

func allOf(t *testing.T, changes iter.Seq2[Change, error]) (all []Change) {
	t.Helper()
	for c, err := range changes {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

// throughText writes changes as lines and reads them again, as they travel.
func throughText(t *testing.T, all []Change) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		for _, c := range all {
			line := c.AppendLine(nil)
			read, err := ParseChange(string(line[:len(line)-1]))
			if err != nil || read != c {
				t.Errorf("%q is read as %+v, %v, want %+v", line, read, err, c)
			}
			if !yield(read, err) {
				return
			}
		}
	}
}

// TestChangesMakeTheNextManifest: what Compare finds and Merge applies is exact, whatever the
// trees; and whatever is linked or copied is in the base.
func TestChangesMakeTheNextManifest(t *testing.T) {
	kinds := map[How]int{}
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(7, seed))
		base := randomTree(r, r.IntN(60))
		next := randomTree(r, r.IntN(60))
		if seed%3 == 0 { // mostly the same
			next = append(Manifest(nil), base...)
			for i := range next {
				switch {
				case next[i].Type == 'f' && r.IntN(4) == 0:
					next[i].SHA256[0]++
				case next[i].Type == 'f' && r.IntN(4) == 0:
					next[i].Modified++
				}
			}
		}
		if seed%3 == 1 && len(base) > 0 { // files of the base at other paths
			for range 5 {
				if e := base[r.IntN(len(base))]; e.Type == 'f' {
					e.Path = fmt.Sprint("~moved", r.IntN(1000))
					if r.IntN(2) == 0 {
						e.Mode ^= 0o010
					}
					next = append(next, e)
				}
			}
			next.Sort()
			next = dedupe(next)
		}
		c, err := Compare(t.Context(), readerOf(base), readerOf(next))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		all := allOf(t, c.All(t.Context()))
		held := map[string]*Entry{}
		for i := range base {
			held[base[i].Path] = &base[i]
		}
		bytesOfNew := int64(0)
		for _, change := range all {
			kinds[change.How]++
			from := held[change.From]
			switch {
			case change.HasContent():
				bytesOfNew += change.Entry.Size
			case change.How == Copy && (from == nil || from.SHA256 != change.Entry.SHA256),
				change.How == Link && (from == nil || from.SHA256 != change.Entry.SHA256 || from.Mode != change.Entry.Mode || from.Modified != change.Entry.Modified):
				t.Errorf("seed %d: %s cannot be made of %q", seed, change.Entry.Path, change.From)
			}
		}
		if c.Changes != len(all) || c.Bytes != bytesOfNew {
			t.Errorf("seed %d: %d changes and %d bytes, want %d and %d", seed, c.Changes, c.Bytes, len(all), bytesOfNew)
		}
		var merged bytes.Buffer
		if err := Merge(t.Context(), &merged, readerOf(base), throughText(t, all)); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if !bytes.Equal(merged.Bytes(), next.Text()) {
			t.Fatalf("seed %d: got\n%s\nwant\n%s", seed, merged.Bytes(), next.Text())
		}
	}
	for _, how := range []How{Gone, New, Link, Copy} {
		if kinds[how] < 50 {
			t.Errorf("test bug: only %d changes of kind %q", kinds[how], how)
		}
	}
}

func dedupe(m Manifest) (out Manifest) {
	for i := range m {
		if i == 0 || m[i].Path != m[i-1].Path {
			out = append(out, m[i])
		}
	}
	return out
}

// TestNothingButWhatChangedIsNamed: a pack of two releases that are much the same is small.
func TestNothingButWhatChangedIsNamed(t *testing.T) {
	base := large(20_000)
	next := append(Manifest(nil), base...)
	changed := 0
	for i := 0; i < len(next); i += 997 {
		if next[i].Type == 'f' {
			next[i].SHA256[3]++
			changed++
		}
	}
	c, err := Compare(t.Context(), readerOf(base), readerOf(next))
	if err != nil {
		t.Fatal(err)
	}
	if c.Changes != changed || changed < 15 {
		t.Errorf("%d changes, want %d", c.Changes, changed)
	}
}

func TestMergeRefusesWhatDoesNotFit(t *testing.T) {
	base := Manifest{{Path: "a", Type: 'd', Mode: 0o755}, {Path: "a/b", Type: 'l', Target: "x"}}
	gone := func(path string) iter.Seq2[Change, error] {
		return func(yield func(Change, error) bool) { yield(Change{How: Gone, Entry: Entry{Path: path}}, nil) }
	}
	if err := Merge(t.Context(), new(bytes.Buffer), readerOf(base), gone("c")); err == nil || !strings.Contains(err.Error(), "c is to go") {
		t.Errorf("%v", err)
	}
	broken := strings.NewReader("d 0755 a\nl x a/b")
	if err := Merge(t.Context(), new(bytes.Buffer), broken, gone("a")); err == nil {
		t.Error("a base that is cut off was taken")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Merge(ctx, new(bytes.Buffer), readerOf(base), gone("a/b")); err == nil {
		t.Error("it went on after the end of its context")
	}
}

// FuzzChange: what is read is written as it was.
func FuzzChange(f *testing.F) {
	for _, line := range []string{"- a\\x20b", "+ d 0755 a", "+ l x a", "= old f 0644 0 " + emptySum + " 1 new", "~ old f 0644 0 " + emptySum + " new"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		c, err := ParseChange(line)
		if err != nil {
			return
		}
		if again := string(c.AppendLine(nil)); again != line+"\n" {
			t.Errorf("%q is written as %q", line, again)
		}
	})
}

func BenchmarkCompareAndMerge(b *testing.B) {
	base := large(200_000)
	next := append(Manifest(nil), base...)
	for i := 0; i < len(next); i += 1000 {
		if next[i].Type == 'f' {
			next[i].SHA256[0]++
		}
	}
	old, text := base.Text(), next.Text()
	for b.Loop() {
		c, err := Compare(b.Context(), bytes.NewReader(old), bytes.NewReader(text))
		if err != nil {
			b.Fatal(err)
		}
		if err := Merge(b.Context(), new(bytes.Buffer), bytes.NewReader(old), c.All(b.Context())); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMerge is what a member does: 200,000 lines, of which 200 change.
func BenchmarkMerge(b *testing.B) {
	base := large(200_000)
	old := base.Text()
	var changes []Change
	for i := 0; i < len(base); i += 1000 {
		if e := base[i]; e.Type == 'f' {
			e.SHA256[0]++
			changes = append(changes, Change{How: New, Entry: e})
		}
	}
	each := func(yield func(Change, error) bool) {
		for _, c := range changes {
			if !yield(c, nil) {
				return
			}
		}
	}
	for b.Loop() {
		if err := Merge(b.Context(), io.Discard, bytes.NewReader(old), each); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(base)), "ns/line")
}
