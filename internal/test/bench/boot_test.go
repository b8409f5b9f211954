package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
)

// boots is a lab in which a small tree is published.
type boots struct {
	*testing.B
	lab    *lab.Lab
	server string        // its address
	spec   cloud.RunSpec // of the instances
	spare  []*host.Host
}

func newBoots(b *testing.B, latency cloud.LatencyTable, inS3 bool) *boots {
	b.Helper()
	l, err := lab.Start(within(b, time.Minute), lab.Options{
		Agent: programs.agent, Publisher: programs.publisher, Dir: b.TempDir(), Seed: 1, Latency: latency, S3: inS3,
	})
	must(b, err)
	b.Cleanup(func() { must(b, l.Close()) })
	server, err := l.ReleaseServer(within(b, time.Minute))
	must(b, err)
	must(b, l.Group("web", 0, 1))
	r := bootsIn(b, l)
	for _, i := range l.Account.Instances() {
		if i.ID == server.ID {
			r.server = i.Address.String()
		}
	}
	must(b, l.Account.Wait(within(b, time.Minute), func() bool { return r.running(server.ID) })) // init attaches a volume
	r.publisher("ebs-release init --size 1; mkdir -p /srv/source; cd /srv/source; seq 1 20000 > data; ebs-release publish /srv/source")
	return r
}

// bootsIn measures in a lab that is there.
func bootsIn(b *testing.B, l *lab.Lab) *boots {
	r := &boots{B: b, lab: l, spec: l.Member()}
	r.spec.ImageID = lab.IdleImage
	return r
}

// publisher runs a shell script on the release server.
func (r *boots) publisher(script string) {
	r.Helper()
	server, err := r.lab.ReleaseServer(within(r.B, time.Minute))
	must(r.B, err)
	out, err := server.Run(within(r.B, 5*time.Minute), "sh", "-euc", script)
	if err != nil {
		r.Fatalf("%s: %v\n%s%s", script, err, out.Stdout, out.Stderr)
	}
}

func (r *boots) running(id string) bool {
	return slices.ContainsFunc(r.lab.Account.Instances(), func(i cloud.Instance) bool { return i.ID == id && i.State == "running" })
}

// batch is how many instances are launched at once: their way to `running` takes longer than a
// boot.
const batch = 5

// host is an instance that runs, and has no volume yet. A new one for each run: client tokens are
// used once.
func (r *boots) host() *host.Host {
	r.Helper()
	if len(r.spare) == 0 {
		var ids []string
		for range batch {
			id, err := r.lab.Account.RunInstance(r.Context(), r.spec)
			must(r.B, err)
			ids = append(ids, id)
		}
		for _, id := range ids {
			h, err := r.lab.Booted(within(r.B, time.Minute), id)
			must(r.B, err)
			must(r.B, r.lab.Account.Wait(within(r.B, time.Minute), func() bool { return r.running(id) }))
			r.spare = append(r.spare, h)
		}
	}
	h := r.spare[0]
	r.spare = r.spare[1:]
	return h
}

// measured is what measure.py says.
type measured struct {
	Code       int
	Start, End float64
	CPU        float64
	Peak       float64
}

func (m measured) wall() time.Duration {
	return time.Duration((m.End - m.Start) * float64(time.Second))
}

// measure runs a program on a host, and takes the host away.
func (r *boots) measure(h *host.Host, argv ...string) measured {
	r.Helper()
	for _, file := range []string{"measure.py", "boot.sh"} {
		data, err := os.ReadFile(filepath.Join("testdata", file))
		must(r.B, err)
		must(r.B, h.WriteFile(within(r.B, 10*time.Second), "/root/"+file, data, 0o755))
	}
	out, err := h.Run(within(r.B, 2*time.Minute), append([]string{"python3", "/root/measure.py"}, argv...)...)
	must(r.B, err)
	var m measured
	lines := strings.Split(strings.TrimSpace(out.Stdout), "\n")
	must(r.B, json.Unmarshal([]byte(lines[len(lines)-1]), &m))
	if m.Code != 0 {
		r.Fatalf("%s: exit %d\n%s%s", argv[0], m.Code, out.Stdout, out.Stderr)
	}
	if _, err := h.Run(within(r.B, 10*time.Second), "sh", "-c", "ls -A /release/current/ | grep -q ."); err != nil {
		r.Fatalf("%s: no release is mounted: %v", argv[0], err)
	}
	return m
}

func (r *boots) agent(h *host.Host) measured {
	r.Helper()
	return r.measure(h, "ebs-release-agent", "up", "--deadline", "2m")
}

func (r *boots) script(h *host.Host) measured {
	r.Helper()
	return r.measure(h, "/root/boot.sh", "http://"+r.server+":8080/snap.txt")
}

// stages is what the agent itself says about where the time went.
func (r *boots) stages(h *host.Host) string {
	r.Helper()
	text, err := h.ReadFile(within(r.B, 10*time.Second), "/run/ebs-release/status.json")
	must(r.B, err)
	var status struct {
		Stages []struct {
			Name         string
			Milliseconds int64
		}
	}
	must(r.B, json.Unmarshal([]byte(text), &status))
	var words []string
	for _, s := range status.Stages {
		words = append(words, fmt.Sprintf("%s %d ms", s.Name, s.Milliseconds))
	}
	return strings.Join(words, ", ")
}

func (r *boots) terminate(h *host.Host) {
	r.Helper()
	must(r.B, r.lab.Account.TerminateInstance(h.ID))
}

// BenchmarkBoot is the agent alone, from the start of its process to its end, which READY=1 comes
// just before: nothing goes wrong, EC2 takes no time, or as long as is published.
func BenchmarkBoot(b *testing.B) {
	for name, latency := range map[string]cloud.LatencyTable{"zero": {}, "realistic": cloud.Realistic()} {
		b.Run(name, func(b *testing.B) {
			r := newBoots(b, latency, false)
			var wall, own, share, cpu, peak, calls []float64
			for b.Loop() {
				h := r.host()
				seen := r.watch(h)
				m := r.agent(h)
				mine := m.wall() - seen.waited(m)
				wall, cpu, peak = append(wall, ms(m.wall())), append(cpu, m.CPU*1000), append(peak, m.Peak/1024)
				own, share = append(own, ms(mine)), append(share, 100*mine.Seconds()/m.wall().Seconds())
				calls = append(calls, float64(len(seen.calls(m, "ec2"))))
				volume, disk := seen.lags(m)
				b.Logf("wall %s, own %s (%.1f %%; after the volume was available %s, after the disk was there %s), EC2 calls: %s; stages: %s",
					m.wall().Round(time.Millisecond), mine.Round(time.Millisecond), share[len(share)-1], volume.Round(time.Millisecond), disk.Round(time.Millisecond), seen.names(m), r.stages(h))
				r.terminate(h)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(wall), "ms-wall")
			b.ReportMetric(median(own), "ms-own")
			b.ReportMetric(median(share), "%-own")
			b.ReportMetric(median(cpu), "ms-cpu")
			b.ReportMetric(median(peak), "MiB-peak")
			b.ReportMetric(median(calls), "calls")
			b.ReportMetric(slices.Max(calls), "calls-max")
		})
	}
}

// BenchmarkBesideTheScript runs the agent and the shell script in pairs, in turns, with an EC2 that
// takes no time.
func BenchmarkBesideTheScript(b *testing.B) {
	r := newBoots(b, cloud.LatencyTable{}, false)
	var agent, script, ratio, agentCPU, scriptCPU []float64
	for n := 0; b.Loop(); n++ {
		one, other := r.host(), r.host()
		var a, s measured
		if n%2 == 0 {
			a, s = r.agent(one), r.script(other)
		} else {
			s, a = r.script(other), r.agent(one)
		}
		agent, script = append(agent, ms(a.wall())), append(script, ms(s.wall()))
		agentCPU, scriptCPU = append(agentCPU, a.CPU*1000), append(scriptCPU, s.CPU*1000)
		ratio = append(ratio, s.wall().Seconds()/a.wall().Seconds())
		b.Logf("agent %s, script %s", a.wall().Round(time.Millisecond), s.wall().Round(time.Millisecond))
		r.terminate(one)
		r.terminate(other)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(agent), "ms-agent")
	b.ReportMetric(median(script), "ms-script")
	b.ReportMetric(median(agentCPU), "ms-cpu-agent")
	b.ReportMetric(median(scriptCPU), "ms-cpu-script")
	b.ReportMetric(median(ratio), "times-faster")
}

// BenchmarkSize is no time: what the program weighs on disk.
func BenchmarkSize(b *testing.B) {
	info, err := os.Stat(programs.agent)
	must(b, err)
	for b.Loop() {
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(info.Size())/(1<<20), "MiB-agent")
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}
