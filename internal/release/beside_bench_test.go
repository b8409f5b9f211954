package release

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/gc"
	"ebs-release/internal/manifest"
	"ebs-release/internal/pack"

	"golang.org/x/sys/unix"
)

// BenchmarkCatchUpBeside brings a tree of 20,000 files of which 1 % changed to a member, as often
// as the loop says: by a new tree of links, whose oldest is removed, or by the oldest tree made
// into the new one.
func BenchmarkCatchUpBeside(b *testing.B) {
	for name, keep := range map[string]int{"links": 0, "recycled": 3} {
		b.Run(name, func(b *testing.B) { benchmarkBeside(b, keep) })
	}
}

func benchmarkBeside(b *testing.B, keep int) {
	const files = 20_000
	dir := b.TempDir()
	for i := range files {
		put(b, dir, fmt.Sprintf("part%d/module%d/file%d.txt", i/5000, i/100, i), fmt.Sprint("content ", i))
	}
	far := open(b, b.TempDir())
	if err := far.Init(0, 0); err != nil {
		b.Fatal(err)
	}
	before, err := far.Ingest(b.Context(), dir, second, gc.Wanted{})
	if err != nil {
		b.Fatal(err)
	}
	held, err := far.Manifest(before.ID)
	if err != nil {
		b.Fatal(err)
	}
	if err := far.Activate(b.Context(), before.ID, before.Digest, 1); err != nil {
		b.Fatal(err)
	}
	generation := int64(1)
	var cpu time.Duration
	push := func() {
		b.StopTimer()
		generation++
		next, text := another(b, before, held, generation, 100)
		b.StartTimer()
		began := cpuTime(b)
		if err := errors.Join(
			catchUpBeside(b.Context(), far, before, next, text, keep), far.Activate(b.Context(), next.ID, next.Digest, generation),
		); err != nil {
			b.Fatal(err)
		}
		if _, err := far.Prune(b.Context(), gc.Wanted{Keep: 3}); err != nil {
			b.Fatal(err)
		}
		cpu += cpuTime(b) - began
		before = next
	}
	for range 3 {
		push()
	}
	cpu = 0
	b.ResetTimer()
	for b.Loop() {
		push()
	}
	b.ReportMetric(float64(cpu.Milliseconds())/float64(b.N), "CPU-ms/op")
}

// another is a release in which one of so many files that a manifest has is new, and the pack for
// it. It changes the manifest.
func another(b *testing.B, before Ingested, held manifest.Manifest, generation, one int64) (Ingested, io.Reader) {
	b.Helper()
	var changes []manifest.Change
	contents := map[string]string{}
	for i := range held {
		e := &held[i]
		if e.Type != 'f' || int64(i)%one != generation%one {
			continue
		}
		content := fmt.Sprint("content ", generation, " ", i)
		e.Size, e.SHA256 = int64(len(content)), sha256.Sum256([]byte(content))
		contents[e.Path] = content
		changes = append(changes, manifest.Change{How: manifest.New, Entry: *e})
	}
	digest := held.Digest()
	next := Ingested{ID: manifest.NewID(second.Add(time.Duration(generation)*time.Second), digest), Digest: digest}
	var text bytes.Buffer
	if err := pack.Write(context.Background(), &text, pack.Head{From: before.Digest, To: digest, Release: next.ID}, each(changes),
		func(path string) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(contents[path])), nil }); err != nil {
		b.Fatal(err)
	}
	return next, &text
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
