package release

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/gc"
	"ebs-release/internal/manifest"

	"golang.org/x/sys/unix"
)

// member is a volume made from a snapshot of another one: the same files, the same owner.
func member(t *testing.T, of *Volume) *Volume {
	t.Helper()
	tree := volume(t)
	copyTo(t, of, tree)
	return tree
}

func copyTo(t *testing.T, of, to *Volume) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", of.Root()+"/.", to.Root()+"/").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
}

func manifestAt(t *testing.T, tree *Volume, id string) manifest.Manifest {
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

func delta(t *testing.T, tree *Volume, base, id string) string {
	t.Helper()
	var b bytes.Buffer
	if err := manifest.Diff(manifestAt(t, tree, base), manifestAt(t, tree, id)).Encode(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// sent is what push sends over ssh to a member that holds base.
func sent(t *testing.T, from *Volume, base, id string) []byte {
	t.Helper()
	var b bytes.Buffer
	missing := Missing(manifestAt(t, from, base), manifestAt(t, from, id))
	if err := from.Send(t.Context(), &b, id, missing); err != nil {
		t.Fatal(err)
	}
	if size := StreamSize(missing); size != int64(b.Len()) {
		t.Fatalf("%d bytes were sent, want %d", b.Len(), size)
	}
	return b.Bytes()
}

func stage(t *testing.T, tree *Volume, base string, in Ingested, delta string) (StageResult, *Staging) {
	t.Helper()
	result, staging, err := tree.Stage(t.Context(), StageRequest{ID: in.ID, Digest: in.Digest, Base: base, Delta: strings.NewReader(delta)})
	if err != nil {
		t.Fatal(err)
	}
	if (staging != nil) != (result.State == Staged) {
		t.Fatalf("%+v, %v", result, staging)
	}
	return result, staging
}

// deliver brings a release from the server to a member that holds base.
func deliver(t *testing.T, server, far *Volume, base string, in Ingested) {
	t.Helper()
	result, staging := stage(t, far, base, in, delta(t, server, base, in.ID))
	if result.State != Staged {
		t.Fatalf("%+v", result)
	}
	if err := errors.Join(staging.Receive(t.Context(), bytes.NewReader(sent(t, server, base, in.ID))), staging.Close()); err != nil {
		t.Fatal(err)
	}
}

// pair is a server with two releases, and a member that holds the first one.
func pair(t *testing.T) (server, far *Volume, one, two Ingested) {
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
	if got := be(t, call{Op: "stage", Root: far.Root(), ID: two.ID, Digest: two.Digest, Base: one.ID, Delta: delta(t, server, one.ID, two.ID)},
		string(sent(t, server, one.ID, two.ID))); got != "staged 2" {
		t.Fatalf("stage: %s", got)
	}
	if current, _ := far.Current(); current != one.ID {
		t.Fatalf("staging changed current to %s", current)
	}
	be(t, call{Op: "activate", Root: far.Root(), ID: two.ID, Digest: two.Digest, Generation: 2}, "")
	same(t, server.Path(two.ID), far.Path(two.ID))
	same(t, server.Path(one.ID), far.Path(one.ID))
	be(t, call{Op: "verify", Root: far.Root(), ID: two.ID}, "")
	if inode(t, far.Path(one.ID)+"/bin/run") != inode(t, far.Path(two.ID)+"/bin/run") {
		t.Error("an unchanged file was not linked")
	}
	// Directories that their owner may not write to can be removed by it.
	if err := far.Activate(t.Context(), one.ID, one.Digest, 3); err != nil {
		t.Fatal(err)
	}
	be(t, call{Op: "prune", Root: far.Root()}, "")
	if left, err := far.Releases(); err != nil || len(left) != 1 || left[0] != one.ID {
		t.Fatalf("left: %v, %v", left, err)
	}
}

func TestMemberWithoutABaseGetsEverything(t *testing.T) {
	server, _, _, two := pair(t)
	far := volume(t)
	deliver(t, server, far, "", two)
	same(t, server.Path(two.ID), far.Path(two.ID))
}

func TestStageOfWhatIsThereSaysSo(t *testing.T) {
	server, far, one, two := pair(t)
	before := listing(t, far)
	if result, _ := stage(t, far, "", one, delta(t, server, "", one.ID)); result.State != Present {
		t.Fatalf("%+v", result)
	}
	if listing(t, far) != before {
		t.Fatal("the volume changed")
	}
	_, _, err := far.Stage(t.Context(), StageRequest{ID: one.ID, Digest: two.Digest, Delta: strings.NewReader(delta(t, server, "", one.ID))})
	wantError(t, err, "has digest")
}

func TestStageAsksForABaseThatItHas(t *testing.T) {
	for name, spoil := range map[string]func(far *Volume, one Ingested) error{
		"not there": func(far *Volume, one Ingested) error { return os.RemoveAll(far.Path(one.ID)) },
		"no manifest": func(far *Volume, one Ingested) error {
			return os.Remove(far.Root() + "/.ebs-release/" + one.ID + ".manifest")
		},
		"manifest is a directory": func(far *Volume, one Ingested) error {
			return os.RemoveAll(far.Root() + "/.ebs-release/" + one.ID + ".manifest")
		},
		"other manifest": func(far *Volume, one Ingested) error {
			return os.WriteFile(far.Root()+"/.ebs-release/"+one.ID+".manifest", []byte("d 0755 x\n"), 0o644)
		},
		"a file is gone":     func(far *Volume, one Ingested) error { return os.Remove(far.Path(one.ID) + "/etc/same") },
		"a file was changed": func(far *Volume, one Ingested) error { return os.WriteFile(far.Path(one.ID)+"/etc/same", nil, 0o644) },
		"a copied file was changed in its content": func(far *Volume, one Ingested) error {
			return os.WriteFile(far.Path(one.ID)+"/mode", []byte("MODE"), 0o644)
		},
		"a file was changed where it is, to the same size": func(far *Volume, one Ingested) error {
			return os.WriteFile(far.Path(one.ID)+"/etc/same", []byte("the SAME\n"), 0o644)
		},
		"a directory is a symlink": func(far *Volume, one Ingested) error {
			etc := far.Path(one.ID) + "/etc"
			return errors.Join(os.Rename(etc, etc+"2"), os.Symlink("etc2", etc))
		},
	} {
		t.Run(name, func(t *testing.T) {
			server, far, one, two := pair(t)
			if err := spoil(far, one); err != nil {
				t.Fatal(err)
			}
			result, _ := stage(t, far, one.ID, two, delta(t, server, one.ID, two.ID))
			if result.State != NeedBase || result.Reason == "" {
				t.Fatalf("%+v", result)
			}
			if left, _ := filepath.Glob(far.Root() + "/releases/*.partial"); len(left) != 0 {
				t.Fatalf("left behind: %v", left)
			}
			// From nothing it always goes.
			deliver(t, server, far, "", two)
			same(t, server.Path(two.ID), far.Path(two.ID))
		})
	}
	server, far, one, two := pair(t)
	result, _ := stage(t, far, manifest.NewID(second, two.Digest), two, delta(t, server, one.ID, two.ID))
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
		"hostile":      "ebs-release delta 1\n+ f 0644 0 " + strings.Repeat("0", 64) + " ../../x\nend\n",
		"empty":        "",
		"not a delta":  "hello\n",
		"endless line": strings.Repeat("x", 1<<20),
	} {
		_, _, err := far.Stage(t.Context(), StageRequest{ID: two.ID, Digest: two.Digest, Delta: strings.NewReader(bad)})
		if err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if listing(t, far) != before {
		t.Fatal("the volume changed")
	}
}

func TestWhatWasNotSentRightIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		do   func(stream []byte) []byte
		want string
	}{
		"nothing":       {func([]byte) []byte { return nil }, "etc/conf: the transfer broke off"},
		"cut off":       {func(s []byte) []byte { return s[:len(s)-1] }, "the transfer broke off"},
		"other content": {func(s []byte) []byte { return bytes.ReplaceAll(s, []byte("sad"), []byte("SAD")) }, "etc/conf: its content has another sha256"},
	} {
		t.Run(name, func(t *testing.T) {
			server, far, one, two := pair(t)
			before := listing(t, far)
			_, staging := stage(t, far, one.ID, two, delta(t, server, one.ID, two.ID))
			err := staging.Receive(t.Context(), bytes.NewReader(tc.do(sent(t, server, one.ID, two.ID))))
			wantError(t, err, "receive "+two.ID, tc.want)
			if err := staging.Close(); err != nil || listing(t, far) != before {
				t.Fatalf("%v, or something was left behind", err)
			}
			// A new attempt starts over.
			deliver(t, server, far, one.ID, two)
			same(t, server.Path(two.ID), far.Path(two.ID))
		})
	}
}

func TestSendRefusesAFileThatIsNotWhatItsManifestSays(t *testing.T) {
	server, _, one, two := pair(t)
	missing := Missing(manifestAt(t, server, one.ID), manifestAt(t, server, two.ID))
	put(t, server.Path(two.ID), "etc/conf", "colour=red and blue\n")
	wantError(t, server.Send(t.Context(), io.Discard, two.ID, missing), "send etc/conf: it has 20 bytes")
	remove(t, server.Path(two.ID), "etc")
	put(t, server.Path(two.ID), "etc -> /etc", "")
	wantError(t, server.Send(t.Context(), io.Discard, two.ID, missing), "send etc/conf", "etc")
}

// Who owns the volume may put a symlink where a release was; who publishes is root.
func TestSendAndVerifyDoNotFollowALinkInPlaceOfARelease(t *testing.T) {
	server, _, one, two := pair(t)
	missing := Missing(manifestAt(t, server, one.ID), manifestAt(t, server, two.ID))
	outside := t.TempDir()
	copyTo(t, open(t, server.Path(two.ID)), open(t, outside))
	remove(t, server.Root(), "releases/"+two.ID)
	for _, target := range []string{outside, one.ID} {
		if err := os.Symlink(target, server.Path(two.ID)); err != nil {
			t.Fatal(err)
		}
		var sent bytes.Buffer
		wantError(t, server.Send(t.Context(), &sent, two.ID, missing), "release "+two.ID)
		if sent.Len() > 0 {
			t.Errorf("sent: %q", sent.String())
		}
		wantError(t, server.Verify(t.Context(), two.ID), "release "+two.ID)
		remove(t, server.Root(), "releases/"+two.ID)
	}
}

// What the owner of the tree puts in the way meanwhile is not written into.
func TestReceivedFilesAreNewOnes(t *testing.T) {
	server, far, one, two := pair(t)
	_, staging := stage(t, far, one.ID, two, delta(t, server, one.ID, two.ID))
	if err := os.Link(far.Path(one.ID)+"/etc/conf", far.PartialPath(two.ID)+"/etc/conf"); err != nil {
		t.Fatal(err)
	}
	wantError(t, staging.Receive(t.Context(), bytes.NewReader(sent(t, server, one.ID, two.ID))), "write etc/conf", "file exists")
	if err := errors.Join(staging.Close(), far.Verify(t.Context(), one.ID)); err != nil {
		t.Fatal(err)
	}
}

func TestNobodyElseChangesTheVolumeWhileItIsStaged(t *testing.T) {
	server, far, one, two := pair(t)
	_, staging := stage(t, far, one.ID, two, delta(t, server, one.ID, two.ID))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	wantError(t, far.Activate(ctx, one.ID, one.Digest, 7), "held by another process")
	if err := staging.Close(); err != nil {
		t.Fatal(err)
	}
	if err := far.Activate(t.Context(), one.ID, one.Digest, 7); err != nil {
		t.Fatal(err)
	}
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
	_, _, err := far.Stage(t.Context(), StageRequest{ID: two.ID, Digest: two.Digest, Base: one.ID, Delta: strings.NewReader(delta(t, server, one.ID, two.ID))})
	wantError(t, err, "the release needs 1.0 MiB more", "no space left on device")
	if !errors.Is(err, unix.ENOSPC) || listing(t, far) != before {
		t.Fatalf("%v, or the volume changed", err)
	}
}

// ext4 takes 65,000 links to a file, and a tree may well have more empty files than that.
func TestFileWithTooManyLinksIsCopied(t *testing.T) {
	server, far, one, two := pair(t)
	old := far.Path(one.ID) + "/etc/same"
	put(t, far.Root(), "links/", "")
	full := false
	for i := 0; i < 70_000 && !full; i++ {
		err := os.Link(old, fmt.Sprint(far.Root(), "/links/", i))
		full = errors.Is(err, unix.EMLINK)
		if err != nil && !full {
			t.Fatal(err)
		}
	}
	deliver(t, server, far, one.ID, two)
	if linked := inode(t, old) == inode(t, far.Path(two.ID)+"/etc/same"); linked == full {
		t.Fatalf("linked: %v, the file had all its links: %v", linked, full)
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
	_, staging := stage(t, far, one.ID, two, delta(t, server, one.ID, two.ID))
	defer func() { _ = staging.Close() }()
	if info, err := os.Lstat(far.PartialPath(two.ID)); err != nil || !info.IsDir() {
		t.Fatalf("%v, %v", info, err)
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 1 {
		t.Fatalf("written outside: %v", entries)
	}
	evil := volume(t)
	remove(t, evil.Root(), "releases")
	if err := os.Symlink(outside, evil.Root()+"/releases"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := evil.Stage(t.Context(), StageRequest{ID: two.ID, Digest: two.Digest, Delta: strings.NewReader(delta(t, server, "", two.ID))}); err == nil {
		t.Fatal("staged outside of the volume")
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 1 {
		t.Fatalf("written outside: %v", entries)
	}
}

// BenchmarkStage brings a tree of 20,000 files of which 1 % changed to a member, as often as the
// loop says: by a new tree of links, whose oldest is removed, or by the oldest tree made into the
// new one.
func BenchmarkStage(b *testing.B) {
	for name, keep := range map[string]int{"links": 0, "recycled": 3} {
		b.Run(name, func(b *testing.B) { benchmarkStage(b, keep) })
	}
}

func benchmarkStage(b *testing.B, keep int) {
	const files = 20_000
	dir := b.TempDir()
	for i := range files {
		put(b, dir, fmt.Sprintf("part%d/module%d/file%d.txt", i/5000, i/100, i), fmt.Sprint("content ", i))
	}
	far := open(b, b.TempDir())
	if err := far.Init(0, 0); err != nil {
		b.Fatal(err)
	}
	in, err := far.Ingest(b.Context(), dir, second, gc.Wanted{})
	if err != nil {
		b.Fatal(err)
	}
	base, err := far.Manifest(in.ID)
	if err != nil {
		b.Fatal(err)
	}
	generation := int64(1)
	baseID := in.ID
	var cpu time.Duration
	push := func() {
		b.StopTimer()
		next := append(manifest.Manifest(nil), base...)
		for i := range next {
			if next[i].Type == 'f' && i%100 == int(generation)%100 {
				next[i].SHA256 = sha256.Sum256(fmt.Append(nil, "new", generation, i))
				content := fmt.Append(nil, "content ", generation, " ", i)
				next[i].Size, next[i].SHA256 = int64(len(content)), sha256.Sum256(content)
			}
		}
		var encoded, stream bytes.Buffer
		if err := manifest.Diff(base, next).Encode(&encoded); err != nil {
			b.Fatal(err)
		}
		for i := range next {
			if next[i] != base[i] {
				stream.Write(fmt.Append(nil, "content ", generation, " ", i))
			}
		}
		digest := next.Digest()
		id := manifest.NewID(second.Add(time.Duration(generation)*time.Second), digest)
		b.StartTimer()
		before := cpuTime(b)
		result, staging, err := far.Stage(b.Context(), StageRequest{ID: id, Digest: digest, Base: baseID, Delta: &encoded, Wanted: gc.Wanted{Keep: keep}})
		if err != nil || result.State != Staged {
			b.Fatal(result, err)
		}
		generation++
		if err := errors.Join(staging.Receive(b.Context(), &stream), staging.Close(), far.Activate(b.Context(), id, digest, generation)); err != nil {
			b.Fatal(err)
		}
		if _, err := far.Prune(b.Context(), gc.Wanted{Keep: 3}); err != nil {
			b.Fatal(err)
		}
		cpu += cpuTime(b) - before
		base, baseID = next, id
	}
	push()
	push()
	cpu = 0
	b.ResetTimer()
	for b.Loop() {
		push()
	}
	b.ReportMetric(float64(cpu.Milliseconds())/float64(b.N), "CPU-ms/op")
}

// cpuTime is what this process has taken. Its wall time says little on a machine that others work
// on.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
