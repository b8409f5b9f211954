package protocol

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ebs-release/internal/gc"
	"ebs-release/internal/push"
	"ebs-release/internal/release"
)

// TestFence holds the fence of the volumes in memory to that of real release volumes: every two
// activations in a row, of two releases at three generations, are answered alike. What a third does
// depends on the state after the second alone.
func TestFence(t *testing.T) {
	dir := t.TempDir()
	type activation struct {
		release    int
		generation int64
	}
	var all []activation
	for r := range 2 {
		for g := range int64(3) {
			all = append(all, activation{r, g + 1})
		}
	}
	point := filepath.Join(dir, "volume")
	if err := os.Mkdir(point, 0o755); err != nil {
		t.Fatal(err)
	}
	tree, err := release.Open(point)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if err := tree.Init(os.Getuid(), os.Getgid()); err != nil {
		t.Fatal(err)
	}
	var releases [2]release.Ingested
	for i := range releases {
		source := filepath.Join(dir, fmt.Sprint("source", i))
		if err := errors.Join(os.Mkdir(source, 0o755), os.WriteFile(filepath.Join(source, "file"), fmt.Append(nil, i), 0o644)); err != nil {
			t.Fatal(err)
		}
		var err error
		if releases[i], err = tree.Ingest(t.Context(), source, time.Now().Add(time.Duration(i)*time.Second), gc.Wanted{}); err != nil {
			t.Fatal(err)
		}
	}
	fence := filepath.Join(point, ".ebs-release", "generation")
	current := filepath.Join(point, "current")
	for _, a := range all {
		for _, b := range all {
			if err := errors.Join(os.RemoveAll(fence), os.RemoveAll(current)); err != nil {
				t.Fatal(err)
			}
			var memory image
			for _, now := range []activation{a, b} {
				id := releases[now.release].ID
				want := memory.activate(id, now.generation, false)
				got := tree.Activate(t.Context(), id, releases[now.release].Digest, now.generation)
				if errors.Is(got, release.ErrFenced) != errors.Is(want, push.ErrFenced) || (got == nil) != (want == nil) {
					t.Fatalf("%v, at %v: on disk %v, in memory %v", []activation{a, b}, now, got, want)
				}
			}
			is, err := tree.Current()
			if generation, err2 := tree.Generation(); err != nil || err2 != nil || is != memory.release || generation != memory.generation {
				t.Fatalf("%v: on disk %s at %d (%v), in memory %s at %d", []activation{a, b}, is, generation, errors.Join(err, err2), memory.release, memory.generation)
			}
		}
	}
}
