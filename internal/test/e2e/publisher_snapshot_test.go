package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/pointer"
)

// named is what the pointer names, and the generation that it holds.
func (r *rig) named() (string, int64) {
	r.Helper()
	p, err := pointer.Parse([]byte(r.stored("release.json")))
	must(r, err)
	id := p.Snapshots[r.lab.Account.Region()]
	if plain := r.stored("snap.txt"); plain != id {
		r.Errorf("snap.txt says %s, release.json %s", plain, id)
	}
	return id, p.Holds().Generation
}

// completed waits until EBS has completed a snapshot.
func (r *rig) completed(id string) {
	r.Helper()
	must(r, r.lab.Account.Wait(within(r, 30*time.Second), func() bool { return r.usable(id) }))
}

// TestSnapshotIsNobodysWait: publishes end while EBS makes their snapshots, and whoever comes next
// names those.
func TestSnapshotIsNobodysWait(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.Latency.Snapshot = cloud.Fixed(8 * time.Second) })
	r.scale(1)
	r.leaves = true
	first, _ := r.named()
	is := func(after, want string, wantHolds int64) {
		t.Helper()
		if id, holds := r.named(); id != want || holds != wantHolds {
			t.Errorf("after %s the pointer names %s of generation %d, want %s of %d", after, id, holds, want, wantHolds)
		}
	}

	two := r.publishAs("two")
	if two.Pending == "" || two.SnapshotID != "" || two.OnIt != 1 {
		t.Errorf("%+v", two)
	}
	is("a publish", first, 1)
	for _, h := range r.scale(2) {
		if got := r.version(h); got != "two" {
			t.Errorf("%s serves %s", h.ID, got)
		}
	}
	if got := r.ok("status"); !strings.Contains(got, first+" in "+r.lab.Account.Region()+" of generation 1 (1 pack behind for ") || strings.Contains(got, "warning") {
		t.Errorf("status: %s", got)
	}
	if out := r.ok("snapshot"); !strings.Contains(out, "start from "+two.Pending+", of the current generation, 2") { // it waits for the one under way
		t.Errorf("snapshot: %s", out)
	}
	is("snapshot", two.Pending, 2)
	if out := r.publisher("snapshot"); out.Code != 0 || !strings.Contains(out.Stderr, "there is nothing to do") || len(r.lab.Account.Snapshots()) != 2 {
		t.Errorf("exit %d: %s%s%+v", out.Code, out.Stdout, out.Stderr, r.lab.Account.Snapshots())
	}

	three := r.publishAs("three")
	r.ok("gc") // pending: not named, not deleted
	is("gc while it is pending", two.Pending, 2)
	r.completed(three.Pending)
	if got := r.ok("gc"); !strings.Contains(got, "start from "+three.Pending+" now") {
		t.Errorf("gc: %s", got)
	}
	is("gc", three.Pending, 3)

	four := r.publishAs("four", "--no-snapshot")
	if four.Pending != "" || len(r.lab.Account.Snapshots()) != 3 {
		t.Errorf("%+v, %+v", four, r.lab.Account.Snapshots())
	}
	var o publication
	must(t, json.Unmarshal([]byte(r.ok("converge", "--output", "json")), &o))
	r.completed(o.Pending)
	r.ok("converge")
	is("converge", o.Pending, 4)

	five := r.publishAs("five")
	r.completed(five.Pending)
	six := r.publishAs("six")
	is("the next publish", five.Pending, 5)
	must(t, json.Unmarshal([]byte(r.ok("rollback", "--to", "4", "--output", "json")), &o))
	is("a rollback to what has a snapshot", o.SnapshotID, 7)
	r.completed(six.Pending)
	r.ok("gc")
	is("gc after the rollback", o.SnapshotID, 7)

	t.Run("lag", func(t *testing.T) {
		r := r.in(t)
		r.publishAs("eight", "--no-snapshot")
		for _, verb := range []string{"status", "doctor"} {
			got := r.ok(verb, "--snapshot-lag", "1ms")
			if !strings.Contains(got, "the newest snapshot that the pointer names is of generation 7, 1 pack behind") || !strings.Contains(got, "ebs-release snapshot") {
				t.Errorf("%s: %s", verb, got)
			}
			if got := r.ok(verb); strings.Contains(got, "ebs-release snapshot") {
				t.Errorf("%s warns within a day: %s", verb, got)
			}
		}
		var s struct {
			Warnings []string
			Lag      struct{ Generation, Steps int64 } `json:"snapshot_lag"`
		}
		must(t, json.Unmarshal([]byte(r.ok("status", "--output", "json", "--snapshot-lag", "1ms")), &s))
		if len(s.Warnings) != 1 || s.Lag.Generation != 7 || s.Lag.Steps != 1 {
			t.Errorf("%+v", s)
		}
	})
	t.Run("one that fails", func(t *testing.T) {
		r := r.in(t)
		defer r.lab.Account.Fault(cloud.Fault{Action: "CreateSnapshot", Effect: cloud.Effect{Disk: cloud.DiskFault{Error: true}}})()
		r.sh("echo nine > /srv/source/version")
		refused(t, r.publisher("publish", "/srv/source", "--wait-snapshot"), 7, "generation 9 is live, but its snapshot is not there", "Try: ebs-release snapshot")
		if e := r.history()[0]; e.Result != "no-snapshot" || !e.Committed || e.Generation != 9 {
			t.Errorf("%+v", e)
		}
		ten := r.publishAs("ten")
		must(t, r.lab.Account.Wait(within(t, 30*time.Second), func() bool {
			return strings.Contains(fmt.Sprintf("%+v", r.lab.Account.Snapshots()), "State:error")
		}))
		if got := r.ok("gc"); !strings.Contains(got, "removed snapshot "+ten.Pending) {
			t.Errorf("gc: %s", got)
		}
	})
	refused(t, r.publisher("publish", "/srv/source", "--wait-snapshot", "--no-snapshot"), 2, "--wait-snapshot and --no-snapshot")
}
