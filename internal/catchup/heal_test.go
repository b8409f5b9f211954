package catchup

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ebs-release/internal/gc"
	"ebs-release/internal/release"
	"ebs-release/internal/test/scratch"
)

// damagedWorld has a member on a disk of its own, which holds two releases. What "only-2" and
// "dir/deep" hold came by the pack between them, "same" by the one from nothing.
type damagedWorld struct {
	*world
	image string
}

func newDamagedWorld(t *testing.T) damagedWorld {
	t.Helper()
	w := newWorld(t, 1, true)
	image, point := scratch.Image(t, 128<<20, "mkfs.ext4", "-q")
	member, err := release.Open(point)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = member.Close() })
	key, err := w.member.PackKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(member.Init(0, 0), member.SetPackKey(t.Context(), key)); err != nil {
		t.Fatal(err)
	}
	w.member = member
	w.seed(t)
	dir := source(t, 2)
	for name, text := range map[string]string{"only-2": "what came by the pack", "large": "the beginning of a large file" + strings.Repeat(" much of it", 200_000), "mode": "what came by the pack"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir+"/mode", 0o755); err != nil {
		t.Fatal(err)
	}
	made, err := w.server.Ingest(t.Context(), dir, time.Now(), gc.Wanted{Keep: 50})
	if err != nil {
		t.Fatal(err)
	}
	e, err := Make(t.Context(), w.server, w.objects, w.releases[0].ID, made.ID, true)
	if err != nil {
		t.Fatal(err)
	}
	w.edges, w.releases = append(w.edges, e), append(w.releases, made)
	// A third one shares what the second brought.
	third, err := w.server.Ingest(t.Context(), withFile(t, dir, "third", "3"), time.Now(), gc.Wanted{Keep: 50})
	if err != nil {
		t.Fatal(err)
	}
	if e, err = Make(t.Context(), w.server, w.objects, made.ID, third.ID, true); err != nil {
		t.Fatal(err)
	}
	w.edges, w.releases = append(w.edges, e), append(w.releases, third)
	for i := range w.releases[1:] {
		p := w.pointer()
		p.Release, p.Digest = w.releases[i+1].ID, w.releases[i+1].Digest
		if _, err := w.volume(true).To(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	return damagedWorld{w, image}
}

func withFile(t *testing.T, dir, name, text string) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// proven returns what is damaged of the last release.
func (w damagedWorld) proven(t *testing.T) []release.Damage {
	t.Helper()
	bad, sum, err := w.member.Prove(t.Context(), w.releases[2].ID, release.NewProof())
	if err != nil || sum != len(bad) {
		t.Fatalf("%d, %v", sum, err)
	}
	return bad
}

func (w damagedWorld) heal(ctx context.Context, bad []release.Damage) (int, error) {
	v := w.volume(true)
	v.Tries = 1
	return v.Heal(ctx, w.pointer(), bad)
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

// What the disk damages is put right in each release that shares it, and never in the file itself.
func TestHealTakesContentsFromPacks(t *testing.T) {
	w := newDamagedWorld(t)
	reader, err := os.Open(w.member.Path(w.releases[2].ID) + "/only-2") // an application's
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	old := inodeOf(t, reader.Name())
	scratch.Flip(t, w.image, "what came by the pack")
	scratch.Flip(t, w.image, "the beginning of a large file")
	bad := w.proven(t)
	if len(bad) != 3 {
		t.Fatalf("%v", bad)
	}
	healed, err := w.heal(t.Context(), bad)
	if err != nil || healed != 3 {
		t.Fatalf("%d, %v", healed, err)
	}
	if bad := w.proven(t); len(bad) > 0 {
		t.Error(bad)
	}
	for _, r := range w.releases[1:] {
		if err := w.member.Verify(t.Context(), r.ID); err != nil {
			t.Error(err)
		}
		if err := w.member.Untouched(t.Context(), r.ID); err != nil {
			t.Error(err)
		}
		if is := inodeOf(t, w.member.Path(r.ID)+"/only-2"); is == old {
			t.Errorf("%s has the damaged file still", r.ID)
		}
	}
	if inodeOf(t, w.member.Path(w.releases[1].ID)+"/large") != inodeOf(t, w.member.Path(w.releases[2].ID)+"/large") {
		t.Error("the releases do not share it any more")
	}
	if left, _ := filepath.Glob(w.member.Root() + "/.ebs-release/.heal*"); len(left) > 0 {
		t.Error(left)
	}
}

func TestHealSaysWhatNoPackHas(t *testing.T) {
	w := newDamagedWorld(t)
	at := w.member.Path(w.releases[2].ID)
	edited := at + "/number"
	if err := os.WriteFile(edited, []byte("by hand"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.edges = w.edges[1:] // the pack that brought it was pruned
	scratch.Flip(t, w.image, "what came by the pack")
	bad := w.proven(t)
	healed, err := w.heal(t.Context(), bad)
	if healed != 0 || !errors.Is(err, ErrNoPack) {
		t.Errorf("%d, %v", healed, err)
	}
	if text, err := os.ReadFile(edited); err != nil || string(text) != "by hand" {
		t.Errorf("what somebody edited is %q, %v", text, err)
	}
	if len(bad) != 3 || len(w.proven(t)) != 3 {
		t.Error(bad)
	}
}

// A store that does not answer, or has another pack, heals nothing, and is not ErrNoPack: another
// try may do better.
func TestHealNeedsTheStore(t *testing.T) {
	w := newDamagedWorld(t)
	scratch.Flip(t, w.image, "what came by the pack")
	bad := w.proven(t)
	for name, answer := range map[string]http.HandlerFunc{
		"away":    func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusForbidden) },
		"another": func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte("something else")) },
	} {
		w.refuse.Store(&answer)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		healed, err := w.heal(ctx, bad)
		cancel()
		if healed != 0 || err == nil || errors.Is(err, ErrNoPack) {
			t.Errorf("%s: %d, %v", name, healed, err)
		}
	}
	w.refuse.Store(nil)
	if healed, err := w.heal(t.Context(), bad); healed != 2 || err != nil {
		t.Errorf("%d, %v", healed, err)
	}
}
