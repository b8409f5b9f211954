package main

import (
	"errors"
	"io/fs"
	"os"
	"testing"
	"time"

	"ebs-release/internal/gc"
	"ebs-release/internal/release"
	"ebs-release/internal/test/scratch"
)

// Nothing is remembered of a SOURCE in tmpfs: what is there goes by --full alone.
func TestFullForgetsWhatIsKnownOfSource(t *testing.T) {
	point, source := t.TempDir(), t.TempDir()
	scratch.Mount(t, "tmpfs", source, "tmpfs", 0, "")
	v, err := release.Open(point)
	if err != nil {
		t.Fatal(err)
	}
	known := point + "/.ebs-release/known"
	if err := errors.Join(v.Init(0, 0), v.Close(), os.WriteFile(source+"/a", nil, 0o644), os.WriteFile(known, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, full := range []bool{false, true} {
		opened := &releaseVolume{point: point, full: full}
		_, err := opened.Ingest(t.Context(), source, time.Now(), gc.Wanted{})
		if err := errors.Join(err, opened.close()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(known); errors.Is(err, fs.ErrNotExist) != full {
			t.Errorf("full is %v: %v", full, err)
		}
	}
}
