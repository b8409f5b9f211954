package release

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/manifest"
	"ebs-release/internal/pack"

	"golang.org/x/sys/unix"
)

// TestABadPackChangesNothingBeside: nothing is left, and what is served is what it was.
func TestABadPackChangesNothingBeside(t *testing.T) {
	server, far, before, next := history(t)
	good := packOf(t, server, before, next)
	other, edited := next, before
	other.Digest = strings.Repeat("ab", 32)
	edited.Digest = other.Digest
	ours := listing(t, far)
	for name, try := range map[string]func(ctx context.Context) error{
		"cut off": func(ctx context.Context) error {
			return catchUpBeside(ctx, far, before, next, bytes.NewReader(good[:len(good)-1]), 0)
		},
		"cut off in the contents": func(ctx context.Context) error {
			return catchUpBeside(ctx, far, before, next, bytes.NewReader(good[:len(good)-5000]), 0)
		},
		"cut off in the changes": func(ctx context.Context) error {
			return catchUpBeside(ctx, far, before, next, bytes.NewReader(good[:500]), 0)
		},
		"another content": func(ctx context.Context) error {
			return catchUpBeside(ctx, far, before, next, bytes.NewReader(bytes.Replace(good, []byte("zzz"), []byte("zzy"), 1)), 0)
		},
		"another release": func(ctx context.Context) error {
			return catchUpBeside(ctx, far, before, other, bytes.NewReader(good), 0)
		},
		"another base": func(ctx context.Context) error {
			return catchUpBeside(ctx, far, next, before, bytes.NewReader(good), 0)
		},
		"a base of another digest": func(ctx context.Context) error {
			return catchUpBeside(ctx, far, edited, next, bytes.NewReader(good), 0)
		},
		"no base": func(ctx context.Context) error {
			return catchUpBeside(ctx, far, Ingested{}, next, bytes.NewReader(good), 0)
		},
		"one entry less": func(ctx context.Context) error {
			return catchUpBeside(ctx, far, before, next, bytes.NewReader(bytes.Replace(good, []byte("- gone\n"), nil, 1)), 0)
		},
		"a path outside": func(ctx context.Context) error {
			return catchUpBeside(ctx, far, before, next, bytes.NewReader(bytes.Replace(good, []byte("- gone\n"), []byte("- ../x\n"), 1)), 0)
		},
		"from a path outside": func(ctx context.Context) error {
			return catchUpBeside(ctx, far, before, next, bytes.NewReader(bytes.Replace(good, []byte("= moves "), []byte("= ../../../etc/passwd "), 1)), 0)
		},
		"from another file": func(ctx context.Context) error {
			return catchUpBeside(ctx, far, before, next, bytes.NewReader(bytes.Replace(good, []byte("= moves "), []byte("= same "), 1)), 0)
		},
		"the end of its context": func(ctx context.Context) error {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return catchUpBeside(ctx, far, before, next, bytes.NewReader(good), 0)
		},
		"the end of its context in the contents": func(ctx context.Context) error {
			ctx, cancel := context.WithCancel(ctx)
			text := bytes.NewReader(good)
			return catchUpBeside(ctx, far, before, next, readerFunc(func(into []byte) (int, error) {
				if text.Len() < 90_000 {
					cancel()
				}
				return text.Read(into)
			}), 0)
		},
	} {
		if err := try(t.Context()); err == nil {
			t.Errorf("%s: it was taken", name)
		}
		if now := listing(t, far); now != ours {
			t.Fatalf("%s: the volume was changed:\n%s\nbefore:\n%s", name, now, ours)
		}
	}
	if err := catchUpBeside(t.Context(), far, before, next, bytes.NewReader(good), 0); err != nil {
		t.Fatal(err)
	}
	same(t, server.Path(next.ID), far.Path(next.ID))
}

// TestWhatTheBaseLostIsMissedBeside: a file of the base that somebody removed, or edited so that
// only its ctime tells, whatever becomes of it in the next release.
func TestWhatTheBaseLostIsMissedBeside(t *testing.T) {
	for _, path := range []string{"same", "dir/in/it", "0755 mode", "moves", "moves and changes mode"} {
		name := strings.TrimPrefix(path, "0755 ")
		for what, do := range map[string]func(t *testing.T, file string){
			"lost":   func(t *testing.T, file string) { remove(t, file, "") },
			"edited": secretly,
			"a symlink": func(t *testing.T, file string) {
				if err := errors.Join(os.Remove(file), os.Symlink("/etc/passwd", file)); err != nil {
					t.Fatal(err)
				}
			},
			"a fifo": func(t *testing.T, file string) {
				if err := errors.Join(os.Remove(file), unix.Mkfifo(file, 0o644)); err != nil {
					t.Fatal(err)
				}
			},
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				server, far, before, next := history(t)
				do(t, far.Path(before.ID)+"/"+name)
				ours := listing(t, far)
				err := catchUpBeside(t.Context(), far, before, next, bytes.NewReader(packOf(t, server, before, next)), 0)
				wantError(t, err, "is not what its manifest says")
				if now := listing(t, far); now != ours {
					t.Fatalf("the volume was changed:\n%s\nbefore:\n%s", now, ours)
				}
			})
		}
	}
}

// signed is the text of a pack whose digest is that of what comes out, as who stole a key can have
// it.
func signed(t *testing.T, far *Volume, before Ingested, id string, changes []manifest.Change) (Ingested, []byte) {
	t.Helper()
	all := func(yield func(manifest.Change, error) bool) {
		for _, c := range changes {
			if !yield(c, nil) {
				return
			}
		}
	}
	base, err := far.openManifest(before.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = base.Close() }()
	var merged, text bytes.Buffer
	if err := manifest.Merge(t.Context(), &merged, base, all); err != nil {
		t.Fatal(err)
	}
	made := Ingested{ID: id, Digest: manifest.DigestOf(merged.Bytes())}
	if err := pack.Write(t.Context(), &text, pack.Head{From: before.Digest, To: made.Digest, Release: id}, all, func(string) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader("")), nil
	}); err != nil {
		t.Fatal(err)
	}
	return made, text.Bytes()
}

// TestASignedPackThatCannotBeIsRefusedBeside: what comes out is no release, or is not what its
// manifest says.
func TestASignedPackThatCannotBeIsRefusedBeside(t *testing.T) {
	// On the volume that it was published on: no file's ctime makes anybody hash it.
	far, _, before, next := history(t)
	id := manifest.NewID(second.Add(time.Hour), next.Digest)
	twin := manifest.Entry{}
	for _, e := range manifestAt(t, far, before.ID) {
		if e.Path == "swap a" {
			twin = e
		}
	}
	twin.Path = "another" // it has what `swap a` has but for its content: `swap b` has that
	twin.SHA256 = sha256.Sum256([]byte("BBB"))
	file := manifest.Entry{Path: "dir", Type: 'f', Mode: 0o644, SHA256: sha256.Sum256(nil)}
	below, orphan := file, file
	below.Path, orphan.Path = "dir/new", "no such directory/new"
	for name, changes := range map[string][]manifest.Change{
		"another content":            {{How: manifest.Link, From: "swap a", Entry: twin}},
		"below what is gone":         {{How: manifest.Gone, Entry: manifest.Entry{Path: "dir"}}, {How: manifest.New, Entry: below}},
		"below a file":               {{How: manifest.New, Entry: file}, {How: manifest.New, Entry: below}},
		"below what was never there": {{How: manifest.New, Entry: orphan}},
	} {
		made, text := signed(t, far, before, id, changes)
		ours := listing(t, far)
		if err := catchUpBeside(t.Context(), far, before, made, bytes.NewReader(text), 0); err == nil {
			t.Errorf("%s: it was taken", name)
		}
		if now := listing(t, far); now != ours {
			t.Fatalf("%s: the volume was changed:\n%s\nbefore:\n%s", name, now, ours)
		}
	}
}
