package bench

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab/cloud"
)

// TestFleetSmoke runs each way once, small, and checks that each has brought the change to every
// member: else its figures mean nothing.
func TestFleetSmoke(t *testing.T) {
	f := newFleet(t, cloud.LatencyTable{}, 8, 500, 5)
	for _, m := range []method{publishing, converging} {
		if got := m.run(f); got.wall <= 0 || got.pusher <= 0 || got.members <= 0 || got.bytes <= 0 || got.converged <= 0 {
			t.Errorf("%s: %+v", m.name, got)
		}
		f.same("/release/current", ourSource)
	}
	if got := loop("tuned").run(f); got.wall <= 0 || got.pusher <= 0 || got.members <= 0 || got.bytes <= 0 {
		t.Errorf("loop: %+v", got)
	}
	f.same(plainFolder, theirSource)
	atomicLoop.run(f)
	f.same(atomicFolder+"/current", theirSource)
}

// BenchmarkFleet prints what docs/performance.md shows. Each way is measured as often as -benchtime
// Nx says, in turn; the table has medians.
func BenchmarkFleet(b *testing.B) {
	all := []method{loop("plain"), loop("tuned"), atomicLoop, parallel("plain", ""), parallel("tuned", ""), parallel("tuned", "8"), login, publishing, converging}
	few := []method{loop("plain"), loop("tuned"), login, publishing, converging}
	for _, size := range []struct {
		members, files, changed int
		methods                 []method
	}{
		{8, 20_000, 200, all},
		{16, 20_000, 200, all},
		{50, 20_000, 200, all},
		// How it grows with the tree, and with what changed.
		{8, 200_000, 200, few},
		{8, 200_000, 2_000, few},
	} {
		b.Run(fmt.Sprintf("members=%d/files=%d/changed=%d", size.members, size.files, size.changed), func(b *testing.B) {
			f := newFleet(b, cloud.LatencyTable{}, size.members, size.files, size.changed)
			rounds := make([][]figures, len(size.methods))
			load := loadAverage(b)
			b.ResetTimer()
			for b.Loop() {
				for i, m := range size.methods {
					rounds[i] = append(rounds[i], m.run(f))
				}
			}
			b.StopTimer()
			fmt.Print(table(f, size.methods, rounds, load))
		})
	}
}

func table(f *fleet, methods []method, rounds [][]figures, load string) string {
	var s strings.Builder
	fmt.Fprintf(&s, "\n%d members, %d files, %d changed; median of %d; load before: %s\n\n", len(f.members), len(f.files), f.changed, len(rounds[0]), load)
	fmt.Fprintln(&s, "| way | wall | pusher CPU per member | members' CPU, each | bytes per member | of wall: P3 and P5 |")
	fmt.Fprintln(&s, "| --- | ---: | ---: | ---: | ---: | ---: |")
	n := len(f.members)
	for i, m := range methods {
		median := func(of func(figures) int64) int64 {
			var all []int64
			for _, got := range rounds[i] {
				all = append(all, of(got))
			}
			slices.Sort(all)
			return all[len(all)/2]
		}
		converged := ""
		if d := median(func(g figures) int64 { return int64(g.converged) }); d > 0 {
			converged = fmt.Sprintf("%.2f s", time.Duration(d).Seconds())
		}
		fmt.Fprintf(&s, "| %s | %.2f s | %s | %s | %.0f KiB | %s |\n", m.name,
			time.Duration(median(func(g figures) int64 { return int64(g.wall) })).Seconds(),
			per(time.Duration(median(func(g figures) int64 { return int64(g.pusher) })), n),
			per(time.Duration(median(func(g figures) int64 { return int64(g.members) })), n),
			float64(median(func(g figures) int64 { return g.bytes }))/1024/float64(n), converged)
	}
	return s.String()
}

func loadAverage(tb testing.TB) string {
	tb.Helper()
	data, err := os.ReadFile("/proc/loadavg")
	must(tb, err)
	return strings.Join(strings.Fields(string(data))[:3], " ")
}
