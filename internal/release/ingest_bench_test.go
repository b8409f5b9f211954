package release

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"ebs-release/internal/gc"

	"golang.org/x/sys/unix"
)

// BenchmarkIngestBesideRsync takes in a tree of 200,000 files of which 200 changed, as often as the
// loop says, beside rsync's two ways to make the same tree of links: by checksum, and by time and
// size, which misses an edit within one second. All take turns. SOURCE and volume are ext4 on disks
// in memory. It takes some minutes.
func BenchmarkIngestBesideRsync(b *testing.B) {
	const files, changed, held = 200_000, 200, 3
	from, to, other := diskOf(b, 2<<30, "-N", "300000"), diskOf(b, 4<<30, "-N", "1500000"), diskOf(b, 4<<30, "-N", "1500000")
	for _, d := range []*disk{from, to, other} {
		d.attach(b)
		b.Cleanup(func() { _ = d.volume.Close() })
	}
	dir := filepath.Join(from.mount, "source")
	name := func(i int) string { return fmt.Sprintf("part%d/module%d/file%d.txt", i/5000, i/100, i) }
	for i := range files {
		put(b, dir, name(i), fmt.Sprint("content ", i))
	}
	v := to.volume
	if err := v.Init(0, 0); err != nil {
		b.Fatal(err)
	}
	generation := int64(0)
	ingest := func(keep int) {
		in, err := v.Ingest(b.Context(), dir, second.Add(time.Duration(generation)*time.Second), gc.Wanted{Keep: keep})
		if err == nil {
			err = v.Activate(b.Context(), in.ID, in.Digest, generation)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	full := func(keep int) {
		if err := v.forget(); err != nil {
			b.Fatal(err)
		}
		ingest(keep)
	}
	trees := 0
	rsync := func(options ...string) func() {
		return func() {
			trees++
			tree := func(n int) string { return fmt.Sprintf("%s/%d", other.mount, n) }
			args := append([]string{"-a", "--link-dest=" + tree(trees-1), dir + "/", tree(trees)}, options...)
			if out, err := exec.CommandContext(b.Context(), "rsync", args...).CombinedOutput(); err != nil {
				b.Fatalf("%v %s", err, out)
			}
			other.sync(b) // as the other ways end on disk
		}
	}
	ways := []struct {
		name string
		do   func()
	}{
		{"full-links", func() { full(0) }}, // as it was before anything was known
		{"full", func() { full(held) }},
		{"known", func() { ingest(held) }},
		{"rsync-checksum", rsync("--checksum")},
		{"rsync-times", rsync()},
	}
	wall, cpu := make([]time.Duration, len(ways)), make([]time.Duration, len(ways))
	round := func() {
		for i, w := range ways {
			generation++
			for n := range changed {
				put(b, dir, name((n*997+int(generation))%files), fmt.Sprint("content ", generation, " ", n))
			}
			from.sync(b)
			began, before := time.Now(), cpuTimeOfAll(b)
			w.do()
			wall[i], cpu[i] = wall[i]+time.Since(began), cpu[i]+cpuTimeOfAll(b)-before
		}
	}
	round()
	clear(wall)
	clear(cpu)
	rounds := 0
	for b.Loop() {
		round()
		rounds++
		_, err := v.Prune(b.Context(), gc.Wanted{Keep: held})
		for n := range trees - 1 {
			err = errors.Join(err, os.RemoveAll(fmt.Sprintf("%s/%d", other.mount, n)))
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	for i, w := range ways {
		b.ReportMetric(float64(wall[i].Milliseconds())/float64(rounds), w.name+"-wall-ms/op")
		b.ReportMetric(float64(cpu[i].Milliseconds())/float64(rounds), w.name+"-CPU-ms/op")
	}
}

// cpuTimeOfAll is cpuTime with that of the processes that it started.
func cpuTimeOfAll(b *testing.B) time.Duration {
	b.Helper()
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &used); err != nil {
		b.Fatal(err)
	}
	return cpuTime(b) + time.Duration(used.Utime.Nano()+used.Stime.Nano())
}
