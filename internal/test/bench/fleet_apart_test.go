package bench

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"ebs-release/internal/lab/cloud"
)

// BenchmarkFleetApart shows what 50 members cost when they have processors of their own, which they
// do everywhere but here: first how long a push to a lone member takes, then a fleet whose agents
// take just that long, and nothing of the two cores that the release server has.
func BenchmarkFleetApart(b *testing.B) {
	for _, files := range []int{20_000, 200_000} {
		const changed = 200
		var lone time.Duration
		b.Run(fmt.Sprintf("lone/files=%d", files), func(b *testing.B) {
			f := newFleet(b, cloud.LatencyTable{}, 1, files, changed)
			var all []time.Duration
			for b.Loop() {
				all = append(all, converging.run(f).converged)
			}
			slices.Sort(all)
			lone = all[len(all)/2]
			fmt.Printf("\na push to a lone member: %s (median of %d)\n", lone.Round(time.Millisecond), len(all))
		})
		b.Run(fmt.Sprintf("members=50/files=%d", files), func(b *testing.B) {
			f := newFleet(b, cloud.LatencyTable{}, 50, files, changed)
			f.standIn(lone)
			var rounds []figures
			load := loadAverage(b)
			b.ResetTimer()
			for b.Loop() {
				rounds = append(rounds, convergingApart.run(f))
			}
			b.StopTimer()
			fmt.Print(table(f, []method{convergingApart}, [][]figures{rounds}, load))
		})
	}
}

var convergingApart = method{"`ebs-release converge`, members with processors of their own (simulated)", func(f *fleet) figures {
	return converge(f, "--agent-path fakeagent")
}}

// standIn gives the members an agent that does nothing but wait.
func (f *fleet) standIn(work time.Duration) {
	f.Helper()
	program, err := os.ReadFile(programs.fakeagent)
	must(f, err)
	for _, m := range f.members {
		must(f, m.WriteFile(within(f, 10*time.Second), "/usr/bin/fakeagent", program, 0o755))
		must(f, m.WriteFile(within(f, 10*time.Second), "/etc/fakeagent", []byte(work.String()), 0o644))
	}
}
