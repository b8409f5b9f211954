package release

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// member is a volume made from a snapshot of another one: the same files, the same owner.
func member(t *testing.T, of Tree) Tree {
	t.Helper()
	tree := volume(t)
	copyTo(t, of, tree)
	return tree
}

func copyTo(t *testing.T, of, to Tree) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", of.Root+"/.", to.Root+"/").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
}

func manifest(t *testing.T, tree Tree, id string) Manifest {
	t.Helper()
	if id == "" {
		return nil
	}
	m, err := tree.Manifest(id)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func delta(t *testing.T, tree Tree, base, id string) string {
	t.Helper()
	var b bytes.Buffer
	if err := Diff(manifest(t, tree, base), manifest(t, tree, id)).Encode(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// send is what push does over ssh: rsync of what is missing.
func send(t *testing.T, from, to Tree, base, id string) {
	t.Helper()
	var names strings.Builder
	for _, e := range Missing(manifest(t, from, base), manifest(t, from, id)) {
		fmt.Fprintf(&names, "./%s\x00", e.Path)
	}
	cmd := exec.CommandContext(t.Context(), "rsync", "-lptWI", "--no-implied-dirs", "--files-from=-", "--from0", from.Path(id)+"/", to.PartialPath(id)+"/")
	cmd.Stdin = strings.NewReader(names.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func stage(t *testing.T, tree Tree, base string, in Ingested, delta string) StageResult {
	t.Helper()
	result, err := tree.Stage(t.Context(), StageRequest{ID: in.ID, Digest: in.Digest, Base: base, Delta: strings.NewReader(delta)})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// pair is a server with two releases, and a member that holds the first one.
func pair(t *testing.T) (server, far Tree, one, two Ingested) {
	t.Helper()
	server = volume(t)
	dir := source(t, first)
	one = publish(t, server, dir, 1)
	far = member(t, server)
	second2(t, dir)
	two = publish(t, server, dir, 2)
	return server, far, one, two
}

func TestMemberGetsTheReleaseAsAnOrdinaryUser(t *testing.T) {
	server, far, one, two := pair(t)
	if got := be(t, call{Op: "stage", Root: far.Root, ID: two.ID, Digest: two.Digest, Base: one.ID}, delta(t, server, one.ID, two.ID)); got != "staged" {
		t.Fatalf("stage: %s", got)
	}
	send(t, server, far, one.ID, two.ID)
	// The rsync of this test is root's; the real one is the owner's.
	if out, err := exec.CommandContext(t.Context(), "chown", "-hR", fmt.Sprintf("%d:%d", ordinary, ordinary), far.PartialPath(two.ID)).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if current, _ := far.Current(); current != one.ID {
		t.Fatalf("staging changed current to %s", current)
	}
	be(t, call{Op: "finish", Root: far.Root, ID: two.ID}, "")
	be(t, call{Op: "activate", Root: far.Root, ID: two.ID, Digest: two.Digest, Generation: 2}, "")
	same(t, server.Path(two.ID), far.Path(two.ID))
	same(t, server.Path(one.ID), far.Path(one.ID))
	be(t, call{Op: "verify", Root: far.Root, ID: two.ID}, "")
	if inode(t, far.Path(one.ID)+"/bin/run") != inode(t, far.Path(two.ID)+"/bin/run") {
		t.Error("an unchanged file was not linked")
	}
	// Directories that their owner may not write to can be removed by it.
	if err := far.Activate(t.Context(), one.ID, one.Digest, 3); err != nil {
		t.Fatal(err)
	}
	be(t, call{Op: "prune", Root: far.Root}, "")
	if left, err := far.Releases(); err != nil || len(left) != 1 || left[0] != one.ID {
		t.Fatalf("left: %v, %v", left, err)
	}
}

func TestMemberWithoutABaseGetsEverything(t *testing.T) {
	server, _, _, two := pair(t)
	far := volume(t)
	if result := stage(t, far, "", two, delta(t, server, "", two.ID)); result.State != Staged || result.Partial != far.PartialPath(two.ID) {
		t.Fatalf("%+v", result)
	}
	send(t, server, far, "", two.ID)
	if err := far.Finish(t.Context(), two.ID); err != nil {
		t.Fatal(err)
	}
	same(t, server.Path(two.ID), far.Path(two.ID))
}

func TestStageOfWhatIsThereSaysSo(t *testing.T) {
	server, far, one, two := pair(t)
	before := listing(t, far)
	if result := stage(t, far, "", one, delta(t, server, "", one.ID)); result.State != Present {
		t.Fatalf("%+v", result)
	}
	if listing(t, far) != before {
		t.Fatal("the volume changed")
	}
	_, err := far.Stage(t.Context(), StageRequest{ID: one.ID, Digest: two.Digest, Delta: strings.NewReader(delta(t, server, "", one.ID))})
	wantError(t, err, "has digest")
	// Finish, when the answer to the first one was lost.
	if err := far.Finish(t.Context(), one.ID); err != nil {
		t.Fatal(err)
	}
	wantError(t, far.Finish(t.Context(), two.ID), "it is not staged")
}

func TestStageAsksForABaseThatItHas(t *testing.T) {
	for name, spoil := range map[string]func(far Tree, one Ingested) error{
		"not there": func(far Tree, one Ingested) error { return os.RemoveAll(far.Path(one.ID)) },
		"no manifest": func(far Tree, one Ingested) error {
			return os.Remove(far.Root + "/.ebs-release/" + one.ID + ".manifest")
		},
		"manifest is a folder": func(far Tree, one Ingested) error {
			return os.RemoveAll(far.Root + "/.ebs-release/" + one.ID + ".manifest")
		},
		"other manifest": func(far Tree, one Ingested) error {
			return os.WriteFile(far.Root+"/.ebs-release/"+one.ID+".manifest", []byte("d 0755 x\n"), 0o644)
		},
		"a file is gone":     func(far Tree, one Ingested) error { return os.Remove(far.Path(one.ID) + "/etc/same") },
		"a file was changed": func(far Tree, one Ingested) error { return os.WriteFile(far.Path(one.ID)+"/etc/same", nil, 0o644) },
		"a copied file was changed in its content": func(far Tree, one Ingested) error {
			return os.WriteFile(far.Path(one.ID)+"/mode", []byte("MODE"), 0o644)
		},
		"a folder is a symlink": func(far Tree, one Ingested) error {
			etc := far.Path(one.ID) + "/etc"
			return errors.Join(os.Rename(etc, etc+"2"), os.Symlink("etc2", etc))
		},
	} {
		t.Run(name, func(t *testing.T) {
			server, far, one, two := pair(t)
			if err := spoil(far, one); err != nil {
				t.Fatal(err)
			}
			result := stage(t, far, one.ID, two, delta(t, server, one.ID, two.ID))
			if result.State != NeedBase || result.Reason == "" || result.Partial != "" {
				t.Fatalf("%+v", result)
			}
			if left, _ := filepath.Glob(far.Root + "/releases/*.partial"); len(left) != 0 {
				t.Fatalf("left behind: %v", left)
			}
			// From nothing it always goes.
			if result := stage(t, far, "", two, delta(t, server, "", two.ID)); result.State != Staged {
				t.Fatalf("%+v", result)
			}
			send(t, server, far, "", two.ID)
			if err := far.Finish(t.Context(), two.ID); err != nil {
				t.Fatal(err)
			}
			same(t, server.Path(two.ID), far.Path(two.ID))
		})
	}
	server, far, one, two := pair(t)
	result := stage(t, far, NewID(second, two.Digest), two, delta(t, server, one.ID, two.ID))
	if len(result.Releases) != 1 || result.Releases[0] != (Held{one.ID, one.Digest}) {
		t.Fatalf("%+v", result)
	}
}

func TestStageRefusesADeltaThatGivesAnotherDigest(t *testing.T) {
	server, far, one, two := pair(t)
	before := listing(t, far)
	for name, bad := range map[string]string{
		"cut off":      strings.TrimSuffix(delta(t, server, "", two.ID), "end\n"),
		"of another":   delta(t, server, "", one.ID),
		"hostile":      "ebs-release delta 1\n+ f 0644 0 " + emptySum + " ../../x\nend\n",
		"empty":        "",
		"not a delta":  "hello\n",
		"endless line": strings.Repeat("x", 1<<20),
	} {
		_, err := far.Stage(t.Context(), StageRequest{ID: two.ID, Digest: two.Digest, Delta: strings.NewReader(bad)})
		if err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if listing(t, far) != before {
		t.Fatal("the volume changed")
	}
}

func TestFinishRefusesWhatWasNotSentRight(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, partial string)
		want string
	}{
		{"not sent", func(t *testing.T, p string) { remove(t, p, "etc/conf") }, "etc/conf is missing"},
		{"other content", func(t *testing.T, p string) { put(t, p, "etc/conf", "colour=bad\n") }, "etc/conf: its content has another sha256"},
		{"half of it", func(t *testing.T, p string) { put(t, p, "etc/conf", "colour") }, "etc/conf: a file of mode 0644 and 6 bytes"},
		{"other mode", func(t *testing.T, p string) { put(t, p, "0640 etc/conf", "colour=sad\n") }, "etc/conf: a file of mode 0640"},
		{"a linked file replaced", func(t *testing.T, p string) { remove(t, p, "etc/same"); put(t, p, "etc/same", "the SAME\n") }, "etc/same: its content"},
		{"a copy that was changed", func(t *testing.T, p string) { put(t, p, "0600 mode", "MODE") }, "mode: its content"},
		{"a leftover of rsync", func(t *testing.T, p string) { put(t, p, "etc/.conf.Xa12b3", "") }, "etc/.conf.Xa12b3 does not belong there"},
		{"another target", func(t *testing.T, p string) { remove(t, p, "link"); put(t, p, "link -> /etc/passwd", "") }, "link: a symlink to"},
		{"a file that is shared", func(t *testing.T, p string) {
			if err := os.Link(p+"/etc/conf", p+"/../../shared"); err != nil {
				t.Fatal(err)
			}
		}, "etc/conf was written in place"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			server, far, one, two := pair(t)
			stage(t, far, one.ID, two, delta(t, server, one.ID, two.ID))
			send(t, server, far, one.ID, two.ID)
			tc.do(t, far.PartialPath(two.ID))
			wantError(t, far.Finish(t.Context(), two.ID), "finish "+two.ID, tc.want)
			if ids, err := far.Releases(); err != nil || len(ids) != 1 {
				t.Fatalf("releases: %v, %v", ids, err)
			}
			// A new attempt starts over.
			stage(t, far, one.ID, two, delta(t, server, one.ID, two.ID))
			send(t, server, far, one.ID, two.ID)
			if err := far.Finish(t.Context(), two.ID); err != nil {
				t.Fatal(err)
			}
			same(t, server.Path(two.ID), far.Path(two.ID))
		})
	}
}

func TestFinishReadsEverythingWhenTheBaseIsGone(t *testing.T) {
	server, far, one, two := pair(t)
	stage(t, far, one.ID, two, delta(t, server, one.ID, two.ID))
	send(t, server, far, one.ID, two.ID)
	remove(t, far.Root, "releases/"+one.ID)
	if err := far.Finish(t.Context(), two.ID); err != nil {
		t.Fatal(err)
	}
	same(t, server.Path(two.ID), far.Path(two.ID))
}

func TestStageOnAFullVolumeIsAClearErrorAndChangesNothing(t *testing.T) {
	server := volume(t)
	dir := source(t, first)
	one := publish(t, server, dir, 1)
	far := small(t, 512)
	copyTo(t, server, far)
	put(t, dir, "big", strings.Repeat("x", 1<<20))
	two := publish(t, server, dir, 2)
	before := listing(t, far)
	_, err := far.Stage(t.Context(), StageRequest{ID: two.ID, Digest: two.Digest, Base: one.ID, Delta: strings.NewReader(delta(t, server, one.ID, two.ID))})
	wantError(t, err, "the release needs 1.0 MiB more", "no space left on device")
	if !errors.Is(err, unix.ENOSPC) || listing(t, far) != before {
		t.Fatalf("%v, or the volume changed", err)
	}
}

// ext4 takes 65,000 links to a file, and a tree may well have more empty files than that.
func TestFileWithTooManyLinksIsCopied(t *testing.T) {
	server, far, one, two := pair(t)
	old := far.Path(one.ID) + "/etc/same"
	put(t, far.Root, "links/", "")
	full := false
	for i := 0; i < 70_000 && !full; i++ {
		err := os.Link(old, fmt.Sprint(far.Root, "/links/", i))
		full = errors.Is(err, unix.EMLINK)
		if err != nil && !full {
			t.Fatal(err)
		}
	}
	stage(t, far, one.ID, two, delta(t, server, one.ID, two.ID))
	if linked := inode(t, old) == inode(t, far.PartialPath(two.ID)+"/etc/same"); linked == full {
		t.Fatalf("linked: %v, the file had all its links: %v", linked, full)
	}
	send(t, server, far, one.ID, two.ID)
	if err := far.Finish(t.Context(), two.ID); err != nil {
		t.Fatal(err)
	}
	same(t, server.Path(two.ID), far.Path(two.ID))
}

func TestStageNeverFollowsASymlinkOutOfTheVolume(t *testing.T) {
	outside := t.TempDir()
	put(t, outside, "victim", "untouched")
	server, far, one, two := pair(t)
	// What an application that runs as the owner could prepare.
	if err := os.Symlink(outside, far.PartialPath(two.ID)); err != nil {
		t.Fatal(err)
	}
	stage(t, far, one.ID, two, delta(t, server, one.ID, two.ID))
	if info, err := os.Lstat(far.PartialPath(two.ID)); err != nil || !info.IsDir() {
		t.Fatalf("%v, %v", info, err)
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 1 {
		t.Fatalf("written outside: %v", entries)
	}
	evil := volume(t)
	remove(t, evil.Root, "releases")
	if err := os.Symlink(outside, evil.Root+"/releases"); err != nil {
		t.Fatal(err)
	}
	if _, err := evil.Stage(t.Context(), StageRequest{ID: two.ID, Digest: two.Digest, Delta: strings.NewReader(delta(t, server, "", two.ID))}); err == nil {
		t.Fatal("staged outside of the volume")
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 1 {
		t.Fatalf("written outside: %v", entries)
	}
}

// BenchmarkStage links a tree of 20,000 files of which 1 % changed, and finishes it.
func BenchmarkStage(b *testing.B) {
	const files = 20_000
	dir := b.TempDir()
	for i := range files {
		put(b, dir, fmt.Sprintf("d%d/e%d/f%d", i%50, i%20, i), fmt.Sprint("content ", i))
	}
	server, far := Tree{b.TempDir()}, Tree{b.TempDir()}
	if err := errors.Join(server.Init(0, 0), far.Init(0, 0)); err != nil {
		b.Fatal(err)
	}
	one, err := server.Ingest(b.Context(), dir, second)
	if err != nil {
		b.Fatal(err)
	}
	if out, err := exec.CommandContext(b.Context(), "cp", "-a", server.Root+"/.", far.Root+"/").CombinedOutput(); err != nil {
		b.Fatalf("%v %s", err, out)
	}
	base, err := server.Manifest(one.ID)
	if err != nil {
		b.Fatal(err)
	}
	next := append(Manifest(nil), base...)
	for i := range next {
		if next[i].Type == 'f' && i%100 == 0 {
			next[i].Mode = 0o600 // copied where it is: no transfer to wait for
		}
	}
	in := Ingested{ID: NewID(second, next.Digest()), Digest: next.Digest()}
	var encoded bytes.Buffer
	if err := Diff(base, next).Encode(&encoded); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		result, err := far.Stage(b.Context(), StageRequest{ID: in.ID, Digest: in.Digest, Base: one.ID, Delta: bytes.NewReader(encoded.Bytes())})
		if err != nil || result.State != Staged {
			b.Fatal(result, err)
		}
		if err := far.Finish(b.Context(), in.ID); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := os.RemoveAll(far.Path(in.ID)); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
