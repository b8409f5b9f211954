package bench

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/disk"
	"ebs-release/internal/lab/host"
)

// BenchmarkWarm measures the first read of a whole release by one reader, an application, on a
// volume from a snapshot with EBS's published cold blocks: right after a boot, and after the agent
// has read all of it. The page cache is dropped before each.
func BenchmarkWarm(b *testing.B) {
	for name, script := range map[string]string{
		"1 GiB in 256 files":   `for i in $(seq 256); do head -c 4194304 /dev/urandom > $i; done`,
		"20000 files of 4 KiB": `for d in $(seq 20); do mkdir $d; (cd $d; head -c 4096000 /dev/urandom | split -b 4096 -a 4 -d - part-); done`,
	} {
		b.Run(name, func(b *testing.B) { measureWarm(b, script) })
	}
}

func measureWarm(b *testing.B, script string) {
	cold := disk.PublishedCold()
	l, err := lab.Start(within(b, 30*time.Second), lab.Options{
		Agent: programs.agent, Publisher: programs.publisher, Dir: b.TempDir(), Seed: 1, Cold: &cold,
		AgentSettings: map[string]string{"deadline": "60s"}, PublisherSettings: map[string]string{"settle": "300ms"},
	})
	must(b, err)
	b.Cleanup(func() { must(b, l.Close()) })
	server, err := l.ReleaseServer(within(b, 30*time.Second))
	must(b, err)
	must(b, l.Group("web", 0, 10))
	sh := func(h *host.Host, script string) (text string, took time.Duration) {
		b.Helper()
		began := time.Now()
		out, err := h.Run(within(b, 10*time.Minute), "sh", "-euc", script)
		must(b, err)
		return out.Stdout, time.Since(began)
	}
	sh(server, "mkdir -p /srv/source/tree; cd /srv/source/tree; "+script)
	sh(server, "ebs-release init --size 4; ebs-release publish /srv/source --wait-snapshot")
	const drop, read = "sync; echo 3 > /proc/sys/vm/drop_caches", "cd /release/current/; find . -type f -print0 | sort -z | xargs -0 cat > /dev/null"
	member := func() (h *host.Host, boot time.Duration) {
		id, err := l.Account.RunInstance(within(b, 30*time.Second), l.Member())
		must(b, err)
		h, err = l.Booted(within(b, 2*time.Minute), id)
		must(b, err)
		var s struct{ Started, Finished time.Time }
		text, _ := sh(h, "ebs-release-agent status --output json")
		must(b, json.Unmarshal([]byte(text), &s))
		return h, s.Finished.Sub(s.Started)
	}
	var boots, firsts, warms, afters []float64
	for b.Loop() {
		h, boot := member()
		boots = append(boots, boot.Seconds())
		sh(h, drop)
		_, first := sh(h, read)
		firsts = append(firsts, first.Seconds())
		must(b, l.Account.TerminateInstance(h.ID))

		h, _ = member()
		began := time.Now()
		sh(h, "setsid ebs-release-agent warm > /run/warm.log 2>&1 < /dev/null & true")
		for {
			text, _ := sh(h, "ebs-release-agent status")
			if strings.Contains(text, "are as the manifest says") {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		warms = append(warms, time.Since(began).Seconds())
		sh(h, drop)
		_, after := sh(h, read)
		afters = append(afters, after.Seconds())
		must(b, l.Account.TerminateInstance(h.ID))
	}
	b.ReportMetric(0, "ns/op")
	fmt.Printf("%s: boot %.2f s; first read by one reader %.1f s; the agent reads all of it in %.1f s; then the same read takes %.1f s\n",
		b.Name(), median(boots), median(firsts), median(warms), median(afters))
}
