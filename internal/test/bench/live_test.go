package bench

import (
	"fmt"
	"testing"
	"time"

	"ebs-release/internal/lab/cloud"
)

// slowSnapshots is the published timing, with snapshots as slow as those of large volumes.
func slowSnapshots() cloud.LatencyTable {
	latency := cloud.Realistic()
	latency.Snapshot = cloud.Dist{Median: time.Minute, P99: 3 * time.Minute}
	return latency
}

// BenchmarkLive is how long a publish takes until the last member has the release. EC2 takes as
// long as published.
func BenchmarkLive(b *testing.B) {
	for _, size := range []struct {
		name                    string
		latency                 cloud.LatencyTable
		members, files, changed int
	}{
		{"1 member, 20,000 files", cloud.Realistic(), 1, 20_000, 200},
		{"16 members, 20,000 files, a snapshot takes 60 s", slowSnapshots(), 16, 20_000, 200},
	} {
		b.Run(size.name, func(b *testing.B) {
			f := newFleet(b, size.latency, size.members, size.files, size.changed)
			var live, whole []float64
			for b.Loop() {
				f.change(ourSource)
				o := f.outcome(f.sh("ebs-release publish --output json " + ourSource + " 2>/dev/null"))
				live, whole = append(live, float64(o.Live)), append(whole, float64(o.Milliseconds))
				b.Logf("live after %d ms of %d; %v", o.Live, o.Milliseconds, o.Phases)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(live), "ms-live")
			b.ReportMetric(median(whole), "ms-whole")
		})
	}
}

// BenchmarkBootBehind is a boot whose snapshot is of the release before the pointer's, with 200
// other files, beside one on the exact snapshot. EC2 takes no time.
func BenchmarkBootBehind(b *testing.B) {
	for _, files := range []int{20_000, 200_000} {
		b.Run(fmt.Sprintf("files=%d", files), func(b *testing.B) {
			f := newFleet(b, cloud.LatencyTable{}, 0, files, 200)
			r := bootsIn(b, f.lab)
			boot := func(flags string) float64 {
				f.change(ourSource)
				f.sh("ebs-release publish " + flags + " " + ourSource + " 2>&1")
				h := r.host()
				m := r.agent(h)
				b.Logf("%s: %s; %s", flags, m.wall().Round(time.Millisecond), r.stages(h))
				r.terminate(h)
				return ms(m.wall())
			}
			var exact, behind, more []float64
			for b.Loop() {
				e, o := boot("--wait-snapshot"), boot("--no-snapshot")
				exact, behind, more = append(exact, e), append(behind, o), append(more, o-e)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(exact), "ms-exact")
			b.ReportMetric(median(behind), "ms-behind")
			b.ReportMetric(median(more), "ms-more")
		})
	}
}
