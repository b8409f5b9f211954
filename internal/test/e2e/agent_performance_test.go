package e2e

import (
	"testing"
	"time"

	"ebs-release/internal/lab/cloud"
)

// TestAgentVolumePerformance: the settings reach EC2 through the shipped policy, and one that
// changed between two boots makes no second volume, also when the first boot died before it learned
// of its volume. What the snapshot's size does not take, EC2 refuses.
func TestAgentVolumePerformance(t *testing.T) {
	r := published(t, nil)
	p := r.pointerNow()

	h := r.machine()
	must(t, failed(agent(within(t, 30*time.Second), h, "--volume-iops", "3000", "--volume-throughput", "500")))
	must(t, r.served(h, p, "one", 1))
	first := r.lab.VolumesFor(h.ID)[0]
	if first.IOPS != 3000 || first.Throughput != 500 {
		t.Errorf("the volume has %d IOPS and %d MiB/s", first.IOPS, first.Throughput)
	}
	must(t, failed(agent(within(t, 30*time.Second), h, "--volume-throughput", "250")))
	must(t, r.served(h, p, "one", 2))
	if now := r.lab.VolumesFor(h.ID)[0]; now.ID != first.ID || r.count(h.ID, "CreateVolume", "-") != 1 {
		t.Errorf("%s became %s", first.ID, now.ID)
	}

	h = r.machine()
	killed := &supervised{host: h, start: func(int) error { return nil }}
	disarm := r.lab.Account.Fault(cloud.Fault{
		Principal: h.ID, Action: "CreateVolume", Times: 1,
		Effect: cloud.Effect{Do: func(cloud.Call) { killed.kill() }, Fail: cloud.Reset, After: true},
	})
	if out := killed.up(within(t, 30*time.Second), "--volume-throughput", "500"); out.Code == 0 {
		t.Fatal("it was to be killed")
	}
	disarm()
	must(t, failed(agent(within(t, 30*time.Second), h, "--volume-type", "gp2")))
	must(t, r.served(h, p, "one", 1))
	if v := r.lab.VolumesFor(h.ID)[0]; v.Throughput != 500 || r.count(h.ID, "CreateVolume", "-") != 1 {
		t.Errorf("another volume was made: %+v", v)
	}

	h = r.machine()
	out := agent(within(t, 30*time.Second), h, "--volume-iops", "80000")
	refused(t, out.Output, 1, "create: ", "Iops to volume size ratio of ", " is too high; maximum is 500", "Try: a smaller volume-iops")
	if n := len(r.lab.VolumesFor(h.ID)); n != 0 {
		t.Errorf("%d volumes", n)
	}
}
