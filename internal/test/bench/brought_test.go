package bench

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab/cloud"
)

// BenchmarkBrought is a boot on a volume of its own beside one on a volume that EC2 brought with
// the launch, with that at the pointer's release or one behind: EC2 and S3 take as long as is
// published.
func BenchmarkBrought(b *testing.B) {
	for _, inS3 := range []bool{false, true} {
		store := map[bool]string{false: "directory", true: "S3"}[inS3]
		b.Run(store, func(b *testing.B) {
			r := newBoots(b, cloud.Realistic(), inS3)
			own := r.spec
			for _, c := range []struct {
				name       string
				generation int // of the volume that comes; 0: none
				publish    bool
			}{{name: "own"}, {name: "brought", generation: 1}, {name: "brought, one behind", generation: 1, publish: true}} {
				if c.publish {
					r.publisher("cd /srv/source; echo two > version; ebs-release publish /srv/source")
				}
				r.spec, r.spare = own, nil
				if c.generation > 0 {
					r.spec.Mappings = []cloud.Mapping{{Device: "/dev/sdf", SnapshotID: r.snapshot(c.generation), Type: "gp3", DeleteOnTermination: true}}
				}
				b.Run(c.name, r.timed)
			}
		})
	}
}

// timed measures boots of the same kind.
func (r *boots) timed(b *testing.B) {
	sub := *r
	sub.B = b
	var wall, own, cpu, calls, objects []float64
	for b.Loop() {
		h := sub.host()
		seen := &watched{lab: r.lab, host: h}
		m := sub.agent(h)
		mine := m.wall() - seen.waited(m)
		wall, own, cpu = append(wall, ms(m.wall())), append(own, ms(mine)), append(cpu, m.CPU*1000)
		calls, objects = append(calls, float64(len(seen.calls(m, "ec2")))), append(objects, float64(len(seen.calls(m, "s3"))))
		var all []string
		for _, c := range seen.calls(m, "") {
			all = append(all, fmt.Sprintf("%s at %d for %d", c.Action, c.Start.Sub(at(m.Start)).Milliseconds(), c.Duration.Milliseconds()))
		}
		b.Logf("wall %s; requests, in ms: %s; stages: %s", m.wall().Round(time.Millisecond), strings.Join(all, ", "), sub.stages(h))
		sub.terminate(h)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(wall), "ms-wall")
	b.ReportMetric(median(own), "ms-own")
	b.ReportMetric(median(cpu), "ms-cpu")
	b.ReportMetric(median(calls), "calls")
	b.ReportMetric(median(objects), "requests-s3")
}

// snapshot is that of a generation.
func (r *boots) snapshot(generation int) (id string) {
	r.Helper()
	must(r.B, r.lab.Account.Wait(within(r.B, 3*time.Minute), func() bool {
		for _, s := range r.lab.Account.Snapshots() {
			if s.Tags["ebs-release:generation"] == fmt.Sprint(generation) && s.State == "completed" {
				id = s.ID
			}
		}
		return id != ""
	}))
	return id
}
