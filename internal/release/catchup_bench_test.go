package release

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ebs-release/internal/manifest"
)

// BenchmarkCatchUpInPlace brings a volume over a pack of 200 changes, makes what comes out current
// and checks it, as a boot does. Of the files only the directories are there, and what came before:
// nothing looks at the others, and only the manifest grows.
func BenchmarkCatchUpInPlace(b *testing.B) {
	for _, files := range []int{20_000, 200_000} {
		b.Run(fmt.Sprintf("files=%d", files), func(b *testing.B) { benchmarkInPlace(b, files) })
	}
}

func benchmarkInPlace(b *testing.B, files int) {
	const changed = 200
	d := diskOf(b, 512<<20)
	d.attach(b)
	b.Cleanup(func() { _ = d.volume.Close() })
	far := d.volume
	if err := far.Init(0, 0); err != nil {
		b.Fatal(err)
	}
	var held manifest.Manifest
	directories := map[string]bool{}
	for i := range files {
		path := fmt.Sprintf("part%03d/module%04d/file%06d.txt", i/5000, i/100, i)
		for at := filepath.Dir(path); at != "." && !directories[at]; at = filepath.Dir(at) {
			directories[at] = true
			held = append(held, manifest.Entry{Path: at, Type: 'd', Mode: 0o755})
		}
		held = append(held, manifest.Entry{Path: path, Type: 'f', Mode: 0o644, Size: 1, SHA256: sha256.Sum256([]byte(path)), Modified: 1})
	}
	held.Sort()
	before := Ingested{ID: manifest.NewID(second, held.Digest()), Digest: held.Digest()}
	for at := range directories {
		if err := os.MkdirAll(filepath.Join(far.Path(before.ID), at), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(far.Root(), stateDir, before.ID+manifestExt), held.Text(), 0o644),
		far.Activate(b.Context(), before.ID, before.Digest, 1),
	); err != nil {
		b.Fatal(err)
	}
	generation, rounds := int64(1), 0
	var cpu time.Duration
	for b.Loop() {
		b.StopTimer()
		generation++
		next, text := another(b, before, held, generation, int64(files/changed))
		d.sync(b)
		b.StartTimer()
		began := cpuTime(b)
		if err := errors.Join(
			catchUp(b.Context(), far, before, next, text), far.Activate(b.Context(), next.ID, next.Digest, generation),
			far.Check(next.ID, next.Digest, generation),
		); err != nil {
			b.Fatal(err)
		}
		cpu += cpuTime(b) - began
		before = next
		rounds++
	}
	b.ReportMetric(float64(cpu.Microseconds())/1000/float64(rounds), "CPU-ms/op")
}
