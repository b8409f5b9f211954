package release

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"iter"
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
	err := catchUpBeside(t.Context(), far, before, next, bytes.NewReader(bytes.Replace(good, []byte("zzz"), []byte("zzy"), 1)), 0)
	wantError(t, err, next.ID, "new/deep/tree/of/files: its content has another sha256")
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
				if wantError(t, err, "is not what its manifest says"); !errors.Is(err, ErrBase) {
					t.Error(err)
				}
				if now := listing(t, far); now != ours {
					t.Fatalf("the volume was changed:\n%s\nbefore:\n%s", now, ours)
				}
			})
		}
	}
}

// TestADamagedBaseIsToldAndFromNothingItGoes: as often as it is tried, and what failed before hides
// nothing.
func TestADamagedBaseIsToldAndFromNothingItGoes(t *testing.T) {
	manifestOf := func(far *Volume, one Ingested) string {
		return far.Root() + "/" + stateDir + "/" + one.ID + manifestExt
	}
	at := func(do func(t *testing.T, tree string)) func(*testing.T, *Volume, Ingested) {
		return func(t *testing.T, far *Volume, one Ingested) { do(t, far.Path(one.ID)) }
	}
	for name, spoil := range map[string]func(t *testing.T, far *Volume, one Ingested){
		"not there": func(t *testing.T, far *Volume, one Ingested) { remove(t, far.Path(one.ID), "") },
		"a file": func(t *testing.T, far *Volume, one Ingested) {
			remove(t, far.Path(one.ID), "")
			put(t, far.Root(), "releases/"+one.ID, "x")
		},
		"no manifest": func(t *testing.T, far *Volume, one Ingested) { remove(t, manifestOf(far, one), "") },
		"manifest is a directory": func(t *testing.T, far *Volume, one Ingested) {
			remove(t, manifestOf(far, one), "")
			put(t, manifestOf(far, one), "x", "x")
		},
		"other manifest":        func(t *testing.T, far *Volume, one Ingested) { put(t, manifestOf(far, one), "", "d 0755 x\n") },
		"a file is gone":        at(func(t *testing.T, tree string) { remove(t, tree, "etc/same") }),
		"a file is empty":       at(func(t *testing.T, tree string) { put(t, tree, "etc/same", "") }),
		"a file was edited":     at(func(t *testing.T, tree string) { secretly(t, tree+"/etc/same") }),
		"a file was written to": at(func(t *testing.T, tree string) { put(t, tree, "etc/same", "the SAME\n") }),
		"a file has grown":      at(func(t *testing.T, tree string) { put(t, tree, "etc/same", "a line of a log, and another one\n") }),
		"a file has another mode and content": at(func(t *testing.T, tree string) {
			put(t, tree, "0600 etc/same", "the SAME\n")
		}),
		"a file to copy was written to": at(func(t *testing.T, tree string) { put(t, tree, "mode", "MODE") }),
		"a file to copy is a directory": at(func(t *testing.T, tree string) { remove(t, tree, "mode"); put(t, tree, "mode/x", "mode") }),
		"a file that moves is gone":     at(func(t *testing.T, tree string) { remove(t, tree, "moved") }),
		"a file is a directory":         at(func(t *testing.T, tree string) { remove(t, tree, "etc/same"); put(t, tree, "etc/same/x", "x") }),
		"a directory is a symlink": at(func(t *testing.T, tree string) {
			if err := errors.Join(os.Rename(tree+"/etc", tree+"/etc2"), os.Symlink("etc2", tree+"/etc")); err != nil {
				t.Fatal(err)
			}
		}),
		"a directory is a file": at(func(t *testing.T, tree string) { remove(t, tree, "etc"); put(t, tree, "etc", "x") }),
		"a file too many, too": at(func(t *testing.T, tree string) {
			put(t, tree, "etc/log", "a line\n")
			secretly(t, tree+"/etc/same")
		}),
	} {
		t.Run(name, func(t *testing.T) {
			server, far, one, two := pair(t)
			text := packOf(t, server, one, two)
			spoil(t, far, one)
			ours := listing(t, far)
			for range 2 {
				err := catchUpBeside(t.Context(), far, one, two, bytes.NewReader(text), 0)
				if wantError(t, err, one.ID); !errors.Is(err, ErrBase) {
					t.Fatal(err)
				}
				if now := listing(t, far); now != ours {
					t.Fatalf("the volume was changed:\n%s\nbefore:\n%s", now, ours)
				}
			}
			deliver(t, server, far, Ingested{}, two)
			same(t, server.Path(two.ID), far.Path(two.ID))
			if err := far.Untouched(t.Context(), two.ID); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestWhatIsWrongWithAPackIsNoFaultOfTheBase: a pack from nothing would not help.
func TestWhatIsWrongWithAPackIsNoFaultOfTheBase(t *testing.T) {
	server, far, before, next := history(t)
	good := packOf(t, server, before, next)
	for name, bad := range map[string][]byte{
		"cut off":         good[:len(good)-1],
		"another content": bytes.Replace(good, []byte("zzz"), []byte("zzy"), 1),
		"one entry less":  bytes.Replace(good, []byte("- gone\n"), nil, 1),
	} {
		if err := catchUpBeside(t.Context(), far, before, next, bytes.NewReader(bad), 0); err == nil || errors.Is(err, ErrBase) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestReceivedFilesAreNewOnes: what the owner of the tree puts in the way meanwhile is not written
// into.
func TestReceivedFilesAreNewOnes(t *testing.T) {
	server, far, one, two := pair(t)
	ours := listing(t, far)
	err := catchUpMeanwhile(t, far, one, two, packOf(t, server, one, two), func() {
		if err := os.Link(far.Path(one.ID)+"/etc/conf", far.PartialPath(two.ID)+"/etc/conf"); err != nil {
			t.Error(err)
		}
	})
	wantError(t, err, "etc/conf", "file exists")
	if now := listing(t, far); now != ours {
		t.Fatalf("the volume was changed:\n%s\nbefore:\n%s", now, ours)
	}
	if err := far.Verify(t.Context(), one.ID); err != nil {
		t.Fatal(err)
	}
}

// TestAFileThatIsWrittenInPlaceWhileOthersTravelIsFound: the manifest gets its name when all files
// have come. What was copied and edited before that is no part of the release all the same.
func TestAFileThatIsWrittenInPlaceWhileOthersTravelIsFound(t *testing.T) {
	server, far, one, two := pair(t)
	if err := catchUpMeanwhile(t, far, one, two, packOf(t, server, one, two), func() {
		file := far.PartialPath(two.ID) + "/mode"
		content, err := os.ReadFile(file)
		if err = errors.Join(err, os.WriteFile(file, bytes.ToUpper(content), 0o600)); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	dir := source(t, first)
	second2(t, dir)
	put(t, dir, "yet another", "")
	three := publish(t, server, dir, 3)
	err := catchUpBeside(t.Context(), far, two, three, bytes.NewReader(packOf(t, server, two, three)), 0)
	if wantError(t, err, "mode"); !errors.Is(err, ErrBase) {
		t.Fatal(err)
	}
}

// TestAnEditWhileLinksAreMadeIsFound: what is linked already, and edited before the tree has its
// name, would have its ctime in a span of ours. It is no part of the release, and its trace stays.
func TestAnEditWhileLinksAreMadeIsFound(t *testing.T) {
	for name, edit := range map[string]func(t *testing.T, file string){
		"with its time set back": secretly,
		"with a new time": func(t *testing.T, file string) {
			if err := os.WriteFile(file, []byte("SAME\n"), 0o600); err != nil {
				t.Error(err)
			}
		},
		"of its mode": func(t *testing.T, file string) {
			if err := os.Chmod(file, 0o666); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			server, far, one, two := pair(t)
			if err := far.Untouched(t.Context(), one.ID); err != nil {
				t.Fatal(err)
			}
			err := catchUpMeanwhile(t, far, one, two, packOf(t, server, one, two), func() { edit(t, far.Path(one.ID)+"/etc/same") })
			if wantError(t, err, "etc/same"); !errors.Is(err, ErrBase) {
				t.Errorf("%v", err)
			}
			wantError(t, far.Untouched(t.Context(), one.ID), "etc/same")
			if err := catchUpBeside(t.Context(), far, Ingested{}, two, bytes.NewReader(packOf(t, server, Ingested{}, two)), 0); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(far.Verify(t.Context(), two.ID), far.Untouched(t.Context(), two.ID)); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("that changes nothing", func(t *testing.T) {
		server, far, one, two := pair(t)
		if err := catchUpMeanwhile(t, far, one, two, packOf(t, server, one, two), func() {
			secretly(t, far.Path(one.ID)+"/etc/same")
			secretly(t, far.Path(one.ID)+"/etc/same") // and back
		}); err != nil {
			t.Error(err)
		}
	})
}

// TestCatchUpBesideNeverFollowsASymlinkOutOfTheVolume: what an application that runs as the owner
// could prepare.
func TestCatchUpBesideNeverFollowsASymlinkOutOfTheVolume(t *testing.T) {
	outside := t.TempDir()
	put(t, outside, "victim", "untouched")
	mine := listing(t, open(t, outside))
	server, _, one, two := pair(t)
	from, all := packOf(t, server, one, two), packOf(t, server, Ingested{}, two)
	for name, works := range map[string]bool{
		releasesDir + "/" + two.ID + partialExt: true, // swept away before
		besideDir:                               true,
		stateDir + "/" + two.ID + manifestExt:   true,
		releasesDir:                             false,
		stateDir:                                false,
	} {
		for _, base := range []Ingested{{}, one} {
			far := volume(t)
			text := all
			if base.ID != "" {
				deliver(t, server, far, Ingested{}, one)
				text = from
			}
			remove(t, far.Root(), name)
			if err := os.Symlink(outside, far.Root()+"/"+name); err != nil {
				t.Fatal(err)
			}
			err := catchUpBeside(t.Context(), far, base, two, bytes.NewReader(text), 0)
			if (err == nil) != works {
				t.Errorf("%s: %v", name, err)
			}
			if now := listing(t, open(t, outside)); now != mine {
				t.Fatalf("%s: changed outside:\n%s\nbefore:\n%s", name, now, mine)
			}
			if works {
				same(t, server.Path(two.ID), far.Path(two.ID))
			}
		}
	}
}

// each is for who has all changes.
func each(changes []manifest.Change) iter.Seq2[manifest.Change, error] {
	return func(yield func(manifest.Change, error) bool) {
		for _, c := range changes {
			if !yield(c, nil) {
				return
			}
		}
	}
}

// signed is the text of a pack whose digest is that of what comes out, as who stole a key can have
// it.
func signed(t *testing.T, far *Volume, before Ingested, id string, changes []manifest.Change) (Ingested, []byte) {
	t.Helper()
	all := each(changes)
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
	head := pack.Head{From: before.Digest, To: made.Digest, Release: id}
	if err := pack.Write(t.Context(), &text, head, all, func(string) (io.ReadCloser, error) {
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
