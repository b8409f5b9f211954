package release

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/gc"
	"ebs-release/internal/manifest"
	"ebs-release/internal/test/scratch"

	"golang.org/x/sys/unix"
)

// ordinary is the user that the trees of these tests belong to: on a real member neither push nor
// activation has root.
const ordinary = 23456

// The test binary is also that user's agent, in a process of its own: "op JSON".
func TestMain(m *testing.M) {
	if op := os.Getenv("RELEASE_TEST_OP"); op != "" {
		if err := asOrdinary(op); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

type call struct {
	Op, Root, Source, ID, Digest, Base, BaseDigest string
	Generation                                     int64
	Keep                                           int
}

func asOrdinary(op string) error {
	var c call
	if err := json.Unmarshal([]byte(op), &c); err != nil {
		return err
	}
	tree, err := Open(c.Root)
	if err != nil {
		return err
	}
	defer func() { _ = tree.Close() }()
	ctx := context.Background()
	switch c.Op {
	case "ingest":
		_, err := tree.Ingest(ctx, c.Source, time.Now(), gc.Wanted{Keep: c.Keep})
		return err
	case "catch up":
		err := catchUp(ctx, tree, Ingested{ID: c.Base, Digest: c.BaseDigest}, Ingested{ID: c.ID, Digest: c.Digest}, os.Stdin)
		return errors.Join(err, tree.Activate(ctx, c.ID, c.Digest, c.Generation))
	case "catch up beside":
		return c.catchUpBeside(ctx, tree, os.Stdin)
	case "finish":
		id, err := tree.FinishCatchUp(ctx)
		if err == nil && id != c.ID {
			err = fmt.Errorf("%q came out", id)
		}
		return err
	case "activate":
		return tree.Activate(ctx, c.ID, c.Digest, c.Generation)
	case "prune":
		_, err := tree.Prune(ctx, gc.Wanted{Keep: c.Keep})
		if errors.Is(err, fs.ErrPermission) {
			fmt.Print(err)
			return nil
		}
		return err
	case "verify":
		return tree.Verify(ctx, c.ID)
	default:
		return fmt.Errorf("unknown op %q", c.Op)
	}
}

// catchUpBeside is all that an agent does for a push.
func (c call) catchUpBeside(ctx context.Context, tree *Volume, text io.Reader) error {
	from, to := Ingested{ID: c.Base, Digest: c.BaseDigest}, Ingested{ID: c.ID, Digest: c.Digest}
	if err := catchUpBeside(ctx, tree, from, to, text, c.Keep); err != nil {
		return err
	}
	return tree.Activate(ctx, c.ID, c.Digest, c.Generation)
}

// be runs a call as the ordinary user.
func be(t *testing.T, c call, stdin string) string {
	t.Helper()
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	// The binary lies in a directory that only root can enter: hand it over as a descriptor.
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = self.Close() }()
	cmd := exec.CommandContext(t.Context(), "/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{self}
	cmd.Dir = "/"
	cmd.Env = []string{"RELEASE_TEST_OP=" + string(data)}
	cmd.Stdin = strings.NewReader(stdin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinary, Gid: ordinary}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s as an ordinary user: %v\n%s", c.Op, err, out)
	}
	return string(out)
}

// open opens a volume until the end of the test.
func open(t testing.TB, dir string) *Volume {
	t.Helper()
	v, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

// volume makes an empty release volume that belongs to the ordinary user.
func volume(t *testing.T) *Volume {
	t.Helper()
	// Not t.TempDir: the ordinary user has to get there.
	dir, err := os.MkdirTemp("", "volume")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	tree := open(t, dir)
	if err := tree.Init(ordinary, ordinary); err != nil {
		t.Fatal(err)
	}
	return tree
}

// What is mounted at the path later, or moved there, is another volume.
func TestVolumeStaysTheOneThatWasOpened(t *testing.T) {
	tree := volume(t)
	one := publish(t, tree, source(t, first), 1)
	moved := tree.Root() + "-moved"
	t.Cleanup(func() { _ = os.RemoveAll(moved) })
	if err := errors.Join(os.Rename(tree.Root(), moved), os.Mkdir(tree.Root(), 0o755)); err != nil {
		t.Fatal(err)
	}
	two := publish(t, tree, source(t, map[string]string{"a": "two"}), 2)
	if err := errors.Join(tree.Verify(t.Context(), one.ID), tree.Check(two.ID, two.Digest, 2), tree.Remove(t.Context(), one.ID)); err != nil {
		t.Error(err)
	}
	if ids, err := open(t, moved).Releases(); err != nil || len(ids) != 1 || ids[0] != two.ID {
		t.Errorf("%v, %v", ids, err)
	}
	if at, err := os.ReadDir(tree.Root()); err != nil || len(at) > 0 {
		t.Errorf("%v, %v: something was done at the path", at, err)
	}
}

// small makes the volume a file system of its own, of that many KiB.
func small(t *testing.T, kib int) *Volume {
	t.Helper()
	dir := t.TempDir()
	scratch.Mount(t, "tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dk", kib))
	tree := open(t, dir)
	if err := tree.Init(ordinary, ordinary); err != nil {
		t.Fatal(err)
	}
	return tree
}

// source writes a tree: "name": content, "name/": directory, "name -> target": symlink; "0755
// name": content with a mode.
func source(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		put(t, dir, name, content)
	}
	return dir
}

func put(t testing.TB, dir, name, content string) {
	t.Helper()
	mode := fs.FileMode(0o644)
	if len(name) > 5 && name[0] == '0' && name[4] == ' ' {
		if _, err := fmt.Sscanf(name[:4], "%o", &mode); err != nil {
			t.Fatal(err)
		}
		name = name[5:]
	}
	name, target, isLink := strings.Cut(name, " -> ")
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	switch {
	case isLink:
		err = os.Symlink(target, path)
	case strings.HasSuffix(name, "/"):
		err = os.MkdirAll(path, 0o755)
	default:
		if err = os.WriteFile(path, []byte(content), 0o644); err == nil {
			err = os.Chmod(path, mode)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

var second = time.Date(2026, 11, 22, 23, 15, 0, 0, time.UTC)

// publish takes a source in and makes it current, as the generation given.
func publish(t *testing.T, tree *Volume, dir string, generation int64) Ingested {
	t.Helper()
	in, err := tree.Ingest(t.Context(), dir, second.Add(time.Duration(generation)*time.Second), gc.Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.Activate(t.Context(), in.ID, in.Digest, generation); err != nil {
		t.Fatal(err)
	}
	return in
}

// same compares two trees by content, mode and link; nothing else may tell them apart.
func same(t *testing.T, a, b string) {
	t.Helper()
	ma, err := Scan(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	mb, err := Scan(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	if ma.Digest() != mb.Digest() {
		t.Fatalf("%s and %s differ: %+v", a, b, manifest.Diff(ma, mb))
	}
}

// listing is all that a volume holds, to see that nothing changed.
func listing(t *testing.T, tree *Volume) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(tree.Root(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		// They are kept after a failure, too: then less has to be hashed.
		if strings.HasSuffix(path, spansPath) || strings.HasSuffix(path, knownPath) {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		_, err = fmt.Fprintln(&b, manifest.Quote(strings.TrimPrefix(path, tree.Root())), info.Mode(), st.Ino, st.Uid, st.Nlink)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Fatalf("error %q, want %q in it", err, w)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Fatalf("not one line: %q", err)
	}
}

func TestActivateIsAFence(t *testing.T) {
	tree := volume(t)
	one := publish(t, tree, source(t, map[string]string{"a": "1"}), 3)
	two, err := tree.Ingest(t.Context(), source(t, map[string]string{"a": "2"}), second, gc.Wanted{})
	if err != nil {
		t.Fatal(err)
	}
	check := func(id string, generation int64) {
		t.Helper()
		current, err := tree.Current()
		if err != nil || current != id {
			t.Fatalf("current %q, %v; want %s", current, err, id)
		}
		if have, err := tree.Generation(); err != nil || have != generation {
			t.Fatalf("generation %d, %v; want %d", have, err, generation)
		}
	}
	check(one.ID, 3)
	for _, late := range []int64{1, 2, 3} {
		if err := tree.Activate(t.Context(), two.ID, two.Digest, late); !errors.Is(err, ErrFenced) {
			t.Fatalf("generation %d of another release: %v", late, err)
		}
	}
	if err := tree.Activate(t.Context(), one.ID, one.Digest, 2); !errors.Is(err, ErrFenced) {
		t.Fatalf("an older generation of the same release: %v", err)
	}
	check(one.ID, 3)
	before := listing(t, tree)
	if err := tree.Activate(t.Context(), one.ID, one.Digest, 3); err != nil {
		t.Fatal(err)
	}
	if listing(t, tree) != before {
		t.Fatal("the same activation again changed something")
	}
	if err := tree.Activate(t.Context(), two.ID, two.Digest, 5); err != nil {
		t.Fatal(err)
	}
	check(two.ID, 5)
	// A rollback is a new generation of an older release.
	if err := tree.Activate(t.Context(), one.ID, one.Digest, 6); err != nil {
		t.Fatal(err)
	}
	check(one.ID, 6)
	wantError(t, tree.Activate(t.Context(), one.ID, two.Digest, 7), "has digest")
	wantError(t, tree.Activate(t.Context(), manifest.NewID(second, strings.Repeat("0", 64)), two.Digest, 7), "is not on")
	wantError(t, tree.Activate(t.Context(), "../x", two.Digest, 7), "is not a release id")
	wantError(t, tree.Activate(t.Context(), one.ID, one.Digest, 0), "generation 0")
	check(one.ID, 6)
}

func TestActivateIsRepeatedAfterACrashBetweenFenceAndFlip(t *testing.T) {
	tree := volume(t)
	one := publish(t, tree, source(t, map[string]string{"a": "1"}), 1)
	two := publish(t, tree, source(t, map[string]string{"a": "2"}), 2)
	link := filepath.Join(tree.Root(), "current")
	if err := errors.Join(os.Remove(link), os.Symlink("releases/"+one.ID, link)); err != nil {
		t.Fatal(err)
	}
	if err := tree.Activate(t.Context(), one.ID, one.Digest, 1); !errors.Is(err, ErrFenced) {
		t.Fatalf("the older one came late and was taken: %v", err)
	}
	if err := tree.Activate(t.Context(), two.ID, two.Digest, 2); err != nil {
		t.Fatal(err)
	}
	if current, _ := tree.Current(); current != two.ID {
		t.Fatalf("current is %s", current)
	}
}

func TestCheckComparesWithThePointer(t *testing.T) {
	tree := volume(t)
	one := publish(t, tree, source(t, map[string]string{"a": "1"}), 3)
	for _, generation := range []int64{3, 7} { // 7: the pointer was rolled back to this snapshot
		if err := tree.Check(one.ID, one.Digest, generation); err != nil {
			t.Fatal(err)
		}
	}
	other := strings.Repeat("0", 64)
	wantError(t, tree.Check(one.ID, one.Digest, 2), "generation 3 was activated here, the pointer says 2")
	wantError(t, tree.Check(one.ID, other, 3), "has digest "+one.Digest)
	wantError(t, tree.Check(manifest.NewID(second, other), other, 3), "current is")
	manifest := filepath.Join(tree.Root(), ".ebs-release", one.ID+".manifest")
	if err := os.Truncate(manifest, 10); err != nil {
		t.Fatal(err)
	}
	wantError(t, tree.Check(one.ID, one.Digest, 3), "has digest")
	remove(t, tree.Root(), "releases/"+one.ID)
	wantError(t, tree.Check(one.ID, one.Digest, 3), "is not on")

	empty := open(t, t.TempDir())
	wantError(t, empty.Check(one.ID, one.Digest, 3), `current is ""`)
	_, err := Open(empty.Root() + "/none")
	wantError(t, err, "release volume", "no such file")
}

func TestCurrentThatLeadsElsewhereIsRefused(t *testing.T) {
	for _, target := range []string{"/etc", "../x", "releases/../..", "releases/x"} {
		tree := volume(t)
		if err := os.Symlink(target, filepath.Join(tree.Root(), "current")); err != nil {
			t.Fatal(err)
		}
		_, err := tree.Current()
		wantError(t, err, "which is no release")
	}
}

func TestPruneKeepsTheCurrentAndTheNewest(t *testing.T) {
	tree := volume(t)
	var ids []string
	var digests []string
	for i := int64(1); i <= 5; i++ {
		in := publish(t, tree, source(t, map[string]string{"same": "x", "sub/a": fmt.Sprint(i)}), i)
		ids, digests = append(ids, in.ID), append(digests, in.Digest)
	}
	if err := tree.Activate(t.Context(), ids[0], digests[0], 6); err != nil { // rolled back to the oldest
		t.Fatal(err)
	}
	gone, err := tree.Prune(t.Context(), gc.Wanted{Keep: 1, Held: map[string]string{ids[2]: "i-1 is on it"}})
	if err != nil || strings.Join(gone, " ") != strings.Join([]string{ids[1], ids[3], ids[4]}, " ") {
		t.Fatalf("gone: %v, %v", gone, err)
	}
	left, err := tree.Releases()
	if err != nil || strings.Join(left, " ") != ids[0]+" "+ids[2] {
		t.Fatalf("left: %v, %v", left, err)
	}
	for _, id := range left {
		if err := tree.Verify(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if manifests, _ := filepath.Glob(filepath.Join(tree.Root(), ".ebs-release", "*.manifest")); len(manifests) != 2 {
		t.Fatalf("manifests: %v", manifests)
	}
	if gone, err := tree.Prune(t.Context(), gc.Wanted{Keep: 0}); err != nil || len(gone) != 1 {
		t.Fatalf("keep 0 must still keep the current one: %v, %v", gone, err)
	}
	if err := tree.Check(ids[0], digests[0], 6); err != nil {
		t.Fatal(err)
	}
}

func TestVerifyFindsEveryDifference(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, dir string)
		want string
	}{
		{"content of the same size and time", func(t *testing.T, dir string) {
			info, err := os.Stat(dir + "/sub/a")
			if err != nil {
				t.Fatal(err)
			}
			put(t, dir, "sub/a", "2")
			if err := os.Chtimes(dir+"/sub/a", info.ModTime(), info.ModTime()); err != nil {
				t.Fatal(err)
			}
		}, "sub/a: its content has another sha256"},
		{"size", func(t *testing.T, dir string) { put(t, dir, "sub/a", "22") }, "sub/a: a file of mode 0644 and 2 bytes, want"},
		{"mode", func(t *testing.T, dir string) { put(t, dir, "0755 sub/a", "1") }, "mode 0755"},
		{"directory mode", func(t *testing.T, dir string) { _ = os.Chmod(dir+"/sub", 0o700) }, "sub: a directory of mode 0700"},
		{"missing", func(t *testing.T, dir string) { remove(t, dir, "sub/a") }, "sub/a is missing"},
		{"one too many", func(t *testing.T, dir string) { put(t, dir, "sub/b\nc", "") }, `"sub/b\nc" does not belong there`},
		{"target", func(t *testing.T, dir string) { remove(t, dir, "l"); put(t, dir, "l -> /etc", "") }, `l: a symlink to "/etc", want "sub/a"`},
		{"type", func(t *testing.T, dir string) { remove(t, dir, "l"); put(t, dir, "l/", "") }, "l: a directory of mode 0755"},
		{"parent became a symlink", func(t *testing.T, dir string) { remove(t, dir, "sub"); put(t, dir, "sub -> /etc", "") }, "sub: a symlink"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tree := volume(t)
			in := publish(t, tree, source(t, map[string]string{"sub/a": "1", "l -> sub/a": ""}), 1)
			if err := tree.Verify(t.Context(), in.ID); err != nil {
				t.Fatal(err)
			}
			tc.do(t, tree.Path(in.ID))
			wantError(t, tree.Verify(t.Context(), in.ID), in.ID, tc.want)
		})
	}
}

func TestAWaitForTheLockIsToldAndEnds(t *testing.T) {
	tree := volume(t)
	in := publish(t, tree, source(t, map[string]string{"a": "1"}), 1)
	lock := filepath.Join(tree.Root(), ".ebs-release/lock")
	held, err := os.Open(lock)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Close() }()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var told []string
		err := tree.Activate(TellWaits(t.Context(), func(lock string) {
			told = append(told, fmt.Sprint(lock, " ", time.Since(start).Round(time.Second)))
		}), in.ID, in.Digest, 2)
		wantError(t, err, "lock "+lock+", held by another process: not given up within 10m0s. Try: fuser -v "+lock)
		if took := time.Since(start).Round(time.Second); took != 10*time.Minute || len(told) != 1 || told[0] != lock+" 1s" {
			t.Errorf("it took %v, and told %v", took, told)
		}
	})
}

func TestLockIsWaitedForOnlyUntilTheDeadline(t *testing.T) {
	tree := volume(t)
	in := publish(t, tree, source(t, map[string]string{"a": "1"}), 1)
	held, err := os.Open(filepath.Join(tree.Root(), ".ebs-release/lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Close() }()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err = tree.Activate(ctx, in.ID, in.Digest, 2)
	wantError(t, err, "held by another process")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	// Looking needs no lock.
	if err := tree.Check(in.ID, in.Digest, 1); err != nil {
		t.Fatal(err)
	}
}

func TestAVolumeWithSomethingElseInPlaceOfOurFilesIsRefusedAtOnce(t *testing.T) {
	for _, name := range []string{"generation", "manifest"} {
		for kind, put := range map[string]func(path string) error{
			"fifo":    func(path string) error { return unix.Mkfifo(path, 0o644) },
			"symlink": func(path string) error { return os.Symlink("/dev/zero", path) },
			"huge":    func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, 1<<40)) },
		} {
			t.Run(name+" "+kind, func(t *testing.T) {
				tree := volume(t)
				in := publish(t, tree, source(t, map[string]string{"a": "1"}), 1)
				path := filepath.Join(tree.Root(), stateDir, fenceName)
				if name == "manifest" {
					path = filepath.Join(tree.Root(), stateDir, in.ID+manifestExt)
				}
				if err := errors.Join(os.Remove(path), put(path)); err != nil {
					t.Fatal(err)
				}
				if err := tree.Check(in.ID, in.Digest, 1); err == nil {
					t.Error("the volume was taken")
				}
			})
		}
	}
}
