package manifest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
)

const emptySum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func text(t testing.TB, m Manifest) string {
	t.Helper()
	var b bytes.Buffer
	if err := m.Encode(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestManifestKeepsEveryByteOfAName(t *testing.T) {
	var all []byte
	for c := 1; c < 256; c++ {
		if c != '/' {
			all = append(all, byte(c))
		}
	}
	m := Manifest{
		{Path: "\n", Type: 'd', Mode: 0o755},
		{Path: "\n/\xff\xfe -> x", Type: 'l', Target: "a b\n\\c\xe4"},
		{Path: string(all[:200]), Type: 'f', Mode: 0o4644, Size: 7, SHA256: sha256.Sum256([]byte("x"))},
		{Path: string(all[200:]), Type: 'f', Mode: 0o600},
	}
	m.Sort()
	encoded := text(t, m)
	if lines := strings.Count(encoded, "\n"); lines != len(m) {
		t.Fatalf("%d lines for %d entries:\n%s", lines, len(m), encoded)
	}
	for _, c := range []byte(encoded) {
		if c != '\n' && (c < ' ' || c > '~') {
			t.Fatalf("byte %#x in a manifest", c)
		}
	}
	back, err := Parse(strings.NewReader(encoded))
	if err != nil || !reflect.DeepEqual(back, m) {
		t.Fatalf("%v\n%v\n%v", err, back, m)
	}
}

func TestManifestFormat(t *testing.T) {
	m := Manifest{
		{Path: "bin", Type: 'd', Mode: 0o755},
		{Path: "bin/go run", Type: 'f', Mode: 0o755, Size: 0, SHA256: sha256.Sum256(nil)},
		{Path: "current", Type: 'l', Target: "/opt/x"},
	}
	want := "d 0755 bin\nf 0755 0 " + emptySum + " bin/go\\x20run\nl /opt/x current\n"
	if got := text(t, m); got != want {
		t.Fatalf("got\n%s, want\n%s", got, want)
	}
	if got, want := m.Digest(), fmt.Sprintf("%x", sha256.Sum256([]byte(want))); got != want {
		t.Fatalf("digest %s, want %s", got, want)
	}
}

func TestHostileManifestsAreRefused(t *testing.T) {
	file := func(path string) string { return "f 0644 0 " + emptySum + " " + path + "\n" }
	for _, tc := range []struct{ name, data, want string }{
		{"climbs out", file("../x"), "leaves the release"},
		{"climbs out below", "d 0755 a\n" + file("a/../../x"), "leaves the release"},
		{"absolute", file("/etc/passwd"), "leaves the release"},
		{"dot", file("."), "leaves the release"},
		{"double slash", "d 0755 a\n" + file("a//b"), "leaves the release"},
		{"slash at the end", "d 0755 a\nd 0755 a/\n", "leaves the release"},
		{"empty path", "d 0755 \n", "path of 0 bytes"},
		{"NUL", file(`a\x00b`), "NUL"},
		{"NUL in a target", "l a\\x00b x\n", "NUL"},
		{"empty target", "l  x\n", "target of this symlink has 0 bytes"},
		{"twice the same", file("a") + file("a"), "not sorted, or twice"},
		{"not sorted", file("b") + file("a"), "not sorted"},
		{"no parent", file("a/b"), "parent is not a directory"},
		{"symlink as parent", "l /etc a\n" + file("a/b"), "parent is not a directory"},
		{"file as parent", file("a") + file("a/b"), "parent is not a directory"},
		{"two spellings", file(`\x61`), "escaped without need"},
		{"capital escape", file(`\x0A`), "not a \\xNN escape"},
		{"half an escape", file(`a\x0`), "not a \\xNN escape"},
		{"raw byte", file("a\x80"), "not escaped"},
		{"mode too wide", "d 17777 a\n", "not a mode"},
		{"mode in letters", "d rwxr a\n", "not a mode"},
		{"unreadable file", "f 0244 0 " + emptySum + " a\n", "cannot be read by its owner"},
		{"closed directory", "d 0655 a\n", "cannot be read and entered"},
		{"negative size", "f 0644 -1 " + emptySum + " a\n", "not a size"},
		{"size with a zero before it", "f 0644 01 " + emptySum + " a\n", "not a size"},
		{"size too large", "f 0644 99999999999999999999 " + emptySum + " a\n", "not a size"},
		{"short sha256", "f 0644 0 e3b0 a\n", "not a sha256"},
		{"unknown type", "p 0644 a\n", "not an entry"},
		{"too many fields", "d 0755 a b\n", "not an entry"},
		{"empty line", "\n", "not an entry"},
		{"cut off", "d 0755 a", "cut off"},
		{"endless line", "d 0755 " + strings.Repeat("a", 1<<20), "longer than"},
		{"long name", file(strings.Repeat("a", 256)), "leaves the release, or is not"},
		{"long path", file(strings.Repeat("a/", 2000) + "a"), "a path of 4001 bytes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m, err := Parse(strings.NewReader(tc.data))
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("got %v, %v; want one line with %q", m, err, tc.want)
			}
		})
	}
}

func TestIDs(t *testing.T) {
	id := NewID(time.Date(2026, 11, 23, 0, 15, 0, 0, time.FixedZone("CET", 3600)), strings.Repeat("9f31c0de77aa", 6))
	if id != "20261122T231500Z-9f31c0de77aa" || !ValidID(id) {
		t.Fatalf("id %q", id)
	}
	for _, bad := range []string{"", "..", id + ".partial", id + "\n", strings.ToUpper(id), "x" + id} {
		if ValidID(bad) {
			t.Errorf("%q is taken for an id", bad)
		}
	}
}

func TestIDsSortByAge(t *testing.T) {
	now := time.Date(2026, 11, 23, 0, 15, 0, 700, time.UTC)
	low, high := strings.Repeat("0", 64), strings.Repeat("f", 64)
	for _, tc := range []struct {
		name     string
		releases []string
		want     string
	}{
		{"the first", nil, "20261123T001500Z-000000000000"},
		{"after an old one", []string{"20261101T000000Z-ffffffffffff"}, "20261123T001500Z-000000000000"},
		{"in the same second", []string{NewID(now, high)}, "20261123T001501Z-000000000000"},
		{"the third of a second", []string{NewID(now, high), NewID(now.Add(time.Second), high)}, "20261123T001502Z-000000000000"},
		{"of a clock that was put back", []string{NewID(now.Add(30*time.Second), high)}, "20261123T001531Z-000000000000"},
		{"of a clock that was wrong", []string{"20991231T235959Z-ffffffffffff"}, "20261123T001500Z-000000000000"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := NextID(tc.releases, now, low); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

// randomTree makes a manifest whose names sort badly around the slash.
func randomTree(r *rand.Rand, n int) Manifest {
	names := []string{"a", "a-b", "a.b", "a b", "b", "\xff", "a\n"}
	m := Manifest{}
	directories := []string{""}
	seen := map[string]bool{}
	for range n {
		path := strings.TrimPrefix(directories[r.IntN(len(directories))]+"/"+names[r.IntN(len(names))], "/")
		if seen[path] {
			continue
		}
		seen[path] = true
		e := Entry{Path: path}
		switch r.IntN(4) {
		case 0:
			e.Type, e.Mode = 'd', 0o755
			directories = append(directories, path)
		case 1:
			e.Type, e.Target = 'l', names[r.IntN(len(names))]
		default:
			e.Type, e.Mode, e.Size = 'f', 0o644+uint32(r.IntN(2))*0o111, int64(r.IntN(3))
			e.SHA256 = sha256.Sum256([]byte{byte(e.Size)})
		}
		m = append(m, e)
	}
	m.Sort()
	return m
}

func TestChangesAreCountedWithoutDirectories(t *testing.T) {
	file := func(path string, size int64) Entry { return Entry{Path: path, Type: 'f', Mode: 0o644, Size: size} }
	directory := func(path string) Entry { return Entry{Path: path, Type: 'd', Mode: 0o755} }
	base := Manifest{file("a", 1), directory("b"), file("b/gone", 1), directory("c"), file("c/was", 1), {Path: "d", Type: 'l', Target: "a"}, file("e", 1), file("same", 1)}
	next := Manifest{file("a", 2), file("c", 1), {Path: "d", Type: 'l', Target: "e"}, directory("e"), file("e/new", 1), directory("new"), file("same", 1)}
	if got, want := Count(base, next), (Changes{Added: 2, Changed: 2, Removed: 3}); got != want {
		t.Errorf("%v, want %v", got, want)
	}
	if got, want := Count(next, base), (Changes{Added: 3, Changed: 2, Removed: 2}); got != want {
		t.Errorf("back: %v, want %v", got, want)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte("d 0755 a\nf 0644 0 " + emptySum + " a/b\\x20c\nl ../x a/l\n"))
	f.Add([]byte("f 0644 0 " + emptySum + " ../x\n"))
	f.Add([]byte("l a\\x00b x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(bytes.NewReader(data))
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x00") {
				t.Fatalf("not one line: %q", err)
			}
			return
		}
		if got := text(t, m); got != string(data) {
			t.Fatalf("two spellings of one manifest:\n%q\n%q", data, got)
		}
		for _, e := range m {
			if strings.HasPrefix(e.Path, "/") || strings.Contains("/"+e.Path+"/", "/../") {
				t.Fatalf("path %q", e.Path)
			}
		}
	})
}

// large is a manifest of files in directories of 100, as a tree of sources has them.
func large(files int) Manifest {
	m := make(Manifest, 0, files+files/100+files/5000)
	for i := range files {
		dir := fmt.Sprintf("part%d/module%d", i/5000, i/100)
		if i%5000 == 0 {
			m = append(m, Entry{Path: fmt.Sprintf("part%d", i/5000), Type: 'd', Mode: 0o755})
		}
		if i%100 == 0 {
			m = append(m, Entry{Path: dir, Type: 'd', Mode: 0o755})
		}
		m = append(m, Entry{Path: fmt.Sprintf("%s/file%d.txt", dir, i), Type: 'f', Mode: 0o644, Size: int64(i), SHA256: sha256.Sum256(fmt.Append(nil, i))})
	}
	m.Sort()
	return m
}

func BenchmarkManifest(b *testing.B) {
	base := large(20_000)
	next := append(Manifest(nil), base...)
	for i := range next {
		if next[i].Type == 'f' && i%100 == 0 {
			next[i].SHA256 = sha256.Sum256(fmt.Append(nil, "new", i))
		}
	}
	encoded := text(b, base)
	for name, do := range map[string]func(){
		"parse": func() {
			if _, err := parseManifest(encoded); err != nil {
				b.Fatal(err)
			}
		},
		"digest": func() { _ = base.Digest() },
		"diff":   func() { _ = Diff(base, next) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				do()
			}
		})
	}
}
