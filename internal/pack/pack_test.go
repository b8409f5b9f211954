package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"strings"
	"testing"

	"ebs-release/internal/manifest"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

var (
	from = strings.Repeat("a1", 32)
	to   = strings.Repeat("b2", 32)
	head = Head{From: from, To: to, Release: "20261127T010203Z-b2b2b2b2b2b2"}
)

func file(path, content string) manifest.Entry {
	return manifest.Entry{Path: path, Type: 'f', Mode: 0o644, Size: int64(len(content)), SHA256: sha256.Sum256([]byte(content)), Modified: 1795651200}
}

// example has each kind of change, and names with bytes that are escaped.
func example() (changes []manifest.Change, contents map[string]string) {
	contents = map[string]string{"a new\nfile": "hello", "empty": "", "z": strings.Repeat("long ", 100_000)}
	changes = []manifest.Change{
		{How: manifest.New, Entry: file("a new\nfile", contents["a new\nfile"])},
		{How: manifest.Gone, Entry: manifest.Entry{Path: "b\\ack"}},
		{How: manifest.Link, From: "old place", Entry: file("c", "what the base has")},
		{How: manifest.Copy, From: "d", Entry: file("d", "with another mode")},
		{How: manifest.New, Entry: manifest.Entry{Path: "dir", Type: 'd', Mode: 0o755}},
		{How: manifest.New, Entry: file("empty", "")},
		{How: manifest.New, Entry: manifest.Entry{Path: "link", Type: 'l', Target: "some where"}},
		{How: manifest.New, Entry: file("z", contents["z"])},
	}
	return changes, contents
}

func each(changes []manifest.Change) iter.Seq2[manifest.Change, error] {
	return func(yield func(manifest.Change, error) bool) {
		for _, c := range changes {
			if !yield(c, nil) {
				return
			}
		}
	}
}

func opener(contents map[string]string) func(string) (io.ReadCloser, error) {
	return func(path string) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(contents[path])), nil }
}

func sealed(t testing.TB, key age.Recipient) ([]byte, Sum) {
	t.Helper()
	changes, contents := example()
	var out bytes.Buffer
	s, err := NewSeal(&out, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(context.Background(), s, head, each(changes), opener(contents)); err != nil {
		t.Fatal(err)
	}
	sum, err := s.Close()
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), sum
}

// readAll goes through a pack as a member does, and returns what it says.
func readAll(p *Reader) (changes []manifest.Change, contents map[string]string, err error) {
	for c, err := range p.Changes() {
		if err != nil {
			return nil, nil, err
		}
		changes = append(changes, c)
	}
	contents = map[string]string{}
	for _, c := range changes {
		if !c.HasContent() {
			continue
		}
		r, err := p.Content(&c.Entry)
		if err != nil {
			return nil, nil, err
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return nil, nil, err
		}
		contents[c.Entry.Path] = string(data)
	}
	return changes, contents, p.End()
}

func key(t testing.TB) *age.X25519Identity {
	t.Helper()
	k, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestWhatIsPackedIsWhatIsRead(t *testing.T) {
	k := key(t)
	for name, with := range map[string]*age.X25519Identity{"plain": nil, "encrypted": k} {
		t.Run(name, func(t *testing.T) {
			var who age.Recipient
			var me age.Identity
			if with != nil {
				who, me = with.Recipient(), with
			}
			data, sum := sealed(t, who)
			if err := Check(bytes.NewReader(data), sum); err != nil {
				t.Fatal(err)
			}
			p, err := Open(bytes.NewReader(data), me)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if p.Head != head {
				t.Errorf("head %+v, want %+v", p.Head, head)
			}
			changes, contents, err := readAll(p.Reader)
			if err != nil {
				t.Fatal(err)
			}
			wantChanges, wantContents := example()
			for i := range max(len(changes), len(wantChanges)) {
				if i >= len(changes) || i >= len(wantChanges) || changes[i] != wantChanges[i] {
					t.Fatalf("change %d of %d is not as it was (%d)", i, len(changes), len(wantChanges))
				}
			}
			for path, want := range wantContents {
				if contents[path] != want {
					t.Errorf("%q has %d bytes, want %d", path, len(contents[path]), len(want))
				}
			}
			if with != nil && bytes.Contains(data, []byte("ebs-release pack")) {
				t.Error("it is not encrypted")
			}
		})
	}
}

func TestAPackThatIsNotTheOneIsRefused(t *testing.T) {
	data, sum := sealed(t, nil)
	changed := bytes.Clone(data)
	changed[len(changed)/2] ^= 1
	for name, bad := range map[string][]byte{"changed": changed, "cut off": data[:len(data)-1], "longer": append(bytes.Clone(data), 0), "empty": nil} {
		if err := Check(bytes.NewReader(bad), sum); !errors.Is(err, ErrSum) {
			t.Errorf("%s: %v, want ErrSum", name, err)
		}
	}
}

// TestNoCutIsTakenForTheEnd: Check comes first, but what reads a pack relies on nothing.
func TestNoCutIsTakenForTheEnd(t *testing.T) {
	var text bytes.Buffer
	changes, contents := example()
	contents["z"] = "short"
	changes[len(changes)-1].Entry = file("z", contents["z"])
	if err := Write(t.Context(), &text, head, each(changes), opener(contents)); err != nil {
		t.Fatal(err)
	}
	for n := range text.Len() {
		p, err := NewReader(bytes.NewReader(text.Bytes()[:n]))
		if err == nil {
			_, _, err = readAll(p)
		}
		if err == nil {
			t.Errorf("cut after %d of %d bytes, it was read to its end", n, text.Len())
		}
	}
	data, _ := sealed(t, nil)
	for range 200 {
		n := rand.IntN(len(data))
		p, err := Open(bytes.NewReader(data[:n]), nil)
		if err == nil {
			_, _, err = readAll(p.Reader)
			p.Close()
		}
		if err == nil {
			t.Errorf("cut after %d of %d bytes, it was read to its end", n, len(data))
		}
	}
}

func TestOnlyTheKeyOpens(t *testing.T) {
	data, _ := sealed(t, key(t).Recipient())
	if p, err := Open(bytes.NewReader(data), key(t)); err == nil {
		p.Close()
		t.Error("another key opened it")
	}
	if p, err := Open(bytes.NewReader(data), nil); err == nil {
		p.Close()
		t.Error("no key opened it")
	}
	plain, _ := sealed(t, nil)
	if p, err := Open(bytes.NewReader(plain), key(t)); err == nil {
		p.Close()
		t.Error("a plain pack was taken where an encrypted one is wanted")
	}
}

func TestHostilePacks(t *testing.T) {
	good := "ebs-release pack 1\nfrom -\nto " + to + " " + head.Release + "\n"
	sum := strings.Repeat("00", 32)
	for name, text := range map[string]string{
		"another format":                "ebs-release pack 2\nfrom -\nto " + to + " " + head.Release + "\ncontents 0 0\nend\n",
		"no release":                    "ebs-release pack 1\nfrom -\nto " + to + " ../../x\ncontents 0 0\nend\n",
		"no base":                       "ebs-release pack 1\nfrom \nto " + to + " " + head.Release + "\ncontents 0 0\nend\n",
		"a path that leaves":            good + "- ../etc/passwd\ncontents 0 0\nend\n",
		"an absolute path":              good + "+ l /x /etc/x\ncontents 0 0\nend\n",
		"from a path that leaves":       good + "= ../../etc/shadow f 0644 1 " + sum + " 1 a\ncontents 0 0\nend\n",
		"a directory from a path":       good + "= a d 0755 b\ncontents 0 0\nend\n",
		"twice the same":                good + "- a\n- a\ncontents 0 0\nend\n",
		"not sorted":                    good + "- b\n- a\ncontents 0 0\nend\n",
		"fewer contents than changes":   good + "+ f 0644 1 " + sum + " 1 a\ncontents 0 0\nend\n",
		"more bytes than it says":       good + "+ f 0644 1 " + sum + " 1 a\ncontents 1 2\nxxend\n",
		"more than a volume holds":      good + "+ f 0644 9223372036854775807 " + sum + " 1 a\n+ f 0644 9223372036854775807 " + sum + " 1 b\ncontents 2 18446744073709551614\n",
		"text after its end":            good + "contents 0 0\nend\nmore",
		"a file that nobody could read": good + "+ f 0000 0 " + sum + " 1 a\ncontents 1 0\nend\n",
		"an endless line":               good + "- " + strings.Repeat("a", 1<<20),
		"no kind of change":             good + "? a\ncontents 0 0\nend\n",
	} {
		p, err := NewReader(strings.NewReader(text))
		if err == nil {
			_, _, err = readAll(p)
		}
		if err == nil {
			t.Errorf("%s: it was read", name)
		}
	}
}

// TestAWindowIsBounded: a frame that wants more memory than a pack of ours is refused before it
// gets it.
func TestAWindowIsBounded(t *testing.T) {
	var out bytes.Buffer
	zip, err := zstd.NewWriter(&out, zstd.WithWindowSize(256<<20), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(zip, io.LimitReader(rand.NewChaCha8([32]byte{}), 8<<20))
	if err := errors.Join(err, zip.Close()); err != nil {
		t.Fatal(err)
	}
	if p, err := Open(&out, nil); !errors.Is(err, zstd.ErrWindowSizeExceeded) {
		if err == nil {
			p.Close()
		}
		t.Errorf("%v, want %v", err, zstd.ErrWindowSizeExceeded)
	}
}

// TestContentsAreNotTakenOutOfTurn: a reader that asks wrongly gets an error, not other bytes.
func TestContentsAreNotTakenOutOfTurn(t *testing.T) {
	changes, contents := example()
	var text bytes.Buffer
	if err := Write(t.Context(), &text, head, each(changes), opener(contents)); err != nil {
		t.Fatal(err)
	}
	p, err := NewReader(&text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Content(&changes[0].Entry); err == nil {
		t.Error("a content came before the changes")
	}
	if err := p.End(); err == nil {
		t.Error("it ended before it began")
	}
	for _, err := range p.Changes() {
		if err != nil {
			t.Fatal(err)
		}
	}
	large := file("large", strings.Repeat("x", 1<<20))
	if _, err := p.Content(&large); err == nil {
		t.Error("there is a content of more bytes than all have")
	}
}

// TestAFileThatShrankStopsThePack: the release was read a moment ago, and somebody edited it.
func TestAFileThatShrankStopsThePack(t *testing.T) {
	changes, contents := example()
	contents["z"] = "less"
	err := Write(t.Context(), io.Discard, head, each(changes), opener(contents))
	if err == nil || !strings.Contains(err.Error(), "z: it has 4 bytes, its manifest says 500000") {
		t.Errorf("%v", err)
	}
}

// FuzzReader: whatever comes, there is an end and no panic; and what is read to its end is a pack
// that can be written again, byte for byte.
func FuzzReader(f *testing.F) {
	var text bytes.Buffer
	changes, contents := example()
	contents["z"] = "short"
	changes[len(changes)-1].Entry = file("z", contents["z"])
	if err := Write(context.Background(), &text, head, each(changes), opener(contents)); err != nil {
		f.Fatal(err)
	}
	f.Add(text.Bytes())
	f.Add([]byte("ebs-release pack 1\nfrom -\nto " + to + " " + head.Release + "\ncontents 0 0\nend\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := NewReader(bytes.NewReader(data))
		if err != nil {
			return
		}
		changes, contents, err := readAll(p)
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := Write(t.Context(), &again, p.Head, each(changes), opener(contents)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again.Bytes(), data) {
			t.Errorf("%q was read, and is written as %q", data, again.Bytes())
		}
	})
}

// FuzzOpen is the same with compression.
func FuzzOpen(f *testing.F) {
	data, _ := sealed(f, nil)
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Open(bytes.NewReader(data), nil)
		if err != nil {
			return
		}
		defer p.Close()
		_, _, _ = readAll(p.Reader)
	})
}

// TestALargeFileDoesNotOutlastItsContext: it is read in pieces, and ctx ends after the first.
func TestALargeFileDoesNotOutlastItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	large := manifest.Change{How: manifest.New, Entry: manifest.Entry{Path: "large", Type: 'f', Mode: 0o644, Size: 1 << 30}}
	read := 0
	err := Write(ctx, io.Discard, head, each([]manifest.Change{large}), func(string) (io.ReadCloser, error) {
		return io.NopCloser(reader(func(into []byte) (int, error) {
			cancel()
			read += len(into)
			return len(into), nil
		})), nil
	})
	if !errors.Is(err, context.Canceled) || read > 1<<20 {
		t.Errorf("%v, after %d bytes", err, read)
	}
}
