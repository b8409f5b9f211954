package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
)

// agentStatus is the agent's status.json.
type agentStatus struct {
	Schema                                       int
	State, Stage, Release, Device, Error         string
	Generation                                   int64
	SnapshotID, VolumeID, InstanceID, MountPoint string `json:"-"`
}

func (r *rig) agentStatus(h *host.Host) (s agentStatus) {
	r.Helper()
	data := []byte(r.on(h, "ebs-release-agent status --output json"))
	must(r, json.Unmarshal(data, &s))
	var ids struct {
		SnapshotID string `json:"snapshot_id"`
		VolumeID   string `json:"volume_id"`
		InstanceID string `json:"instance_id"`
		MountPoint string `json:"mount_point"`
	}
	must(r, json.Unmarshal(data, &ids))
	s.SnapshotID, s.VolumeID, s.InstanceID, s.MountPoint = ids.SnapshotID, ids.VolumeID, ids.InstanceID, ids.MountPoint
	return s
}

// ready counts how often services of this boot said READY=1.
func ready(h *host.Host) (n int) {
	for _, notice := range h.Notices() {
		for line := range strings.Lines(notice) {
			if strings.TrimSpace(line) == "READY=1" {
				n++
			}
		}
	}
	return n
}

func TestBootServesTheRelease(t *testing.T) {
	r := published(t, nil)
	h, err := r.member()
	must(t, err)
	s := r.agentStatus(h)
	volumes := r.lab.VolumesFor(h.ID)
	if len(volumes) != 1 || s.Schema != 1 || s.State != "ready" || s.Generation != 1 || s.VolumeID != volumes[0].ID || s.InstanceID != h.ID || s.Error != "" {
		t.Fatalf("status %+v, volumes %+v", s, volumes)
	}
	if n := ready(h); n != 1 {
		t.Errorf("READY=1 was said %d times", n)
	}
	want := "nosuid,nodev,noatime"
	options := r.on(h, `awk '$5 == "/release" { print $6 }' /proc/1/mountinfo`)
	for _, o := range strings.Split(want, ",") {
		if !strings.Contains(","+options+",", ","+o+",") {
			t.Errorf("/release is mounted %s, want %s", options, want)
		}
	}
	if got := r.on(h, "readlink /run/app.started || cat /run/app.started"); got != "releases/"+s.Release {
		t.Errorf("the application started with %q", got)
	}
	env := r.on(h, ". /run/ebs-release/release.env; echo $EBS_RELEASE_GENERATION $EBS_RELEASE_ID $EBS_RELEASE_PATH $EBS_RELEASE_VOLUME_ID $EBS_RELEASE_SNAPSHOT_ID")
	if env != strings.Join([]string{"1", s.Release, "/release/current", s.VolumeID, s.SnapshotID}, " ") {
		t.Errorf("release.env says %q", env)
	}
	if key := strings.Join(strings.Fields(r.on(h, "cat /etc/ssh/ssh_host_ed25519_key.pub"))[:2], " "); volumes[0].Tags["ebs-release:host-key"] != key {
		t.Errorf("tags %v, host key %s", volumes[0].Tags, key)
	}
}

// TestAFirstBootTakesSevenCallsOfEC2: as often as the agent has to look at its new volume, and one
// look at the snapshots, beside the attach. It takes no time here, but what the lab needs to make a
// volume; the benchmarks have a test with latencies as they are published.
func TestAFirstBootTakesSevenCallsOfEC2(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.Latency.Write = cloud.Fixed(20 * time.Millisecond) })
	h, err := r.member()
	must(t, err)
	if actions := r.actions(h.ID); len(actions) > 7 || !slices.Contains(actions, "DescribeSnapshots") {
		t.Errorf("%d calls: %v", len(actions), actions)
	}
}

func TestSecondUpChangesNothing(t *testing.T) {
	r := published(t, nil)
	h, err := r.member()
	must(t, err)
	before, mounts := r.account(), r.on(h, "cat /proc/1/mountinfo")
	calls := len(r.lab.Account.CallsBy(h.ID))
	out := r.up(h)
	if out.Code != 0 {
		t.Fatalf("exit %d: %s", out.Code, out.Stderr)
	}
	if r.account() != before || r.on(h, "cat /proc/1/mountinfo") != mounts {
		t.Error("a second up changed something")
	}
	for _, c := range r.lab.Account.CallsBy(h.ID)[calls:] {
		if c.Mutates {
			t.Errorf("a second up called %s", c.Action)
		}
	}
}

func TestRebootAdoptsVolume(t *testing.T) {
	r := published(t, nil)
	h, err := r.member()
	must(t, err)
	for _, again := range []struct {
		name string
		do   func() error
	}{
		{"reboot", func() error { return r.lab.Reboot(within(t, 30*time.Second), h.ID) }},
		{"stop and start", func() error { return r.lab.StopStart(within(t, 30*time.Second), h.ID) }},
	} {
		t.Run(again.name, func(t *testing.T) {
			r := r.in(t)
			before := r.agentStatus(h)
			must(t, again.do())
			if after := r.agentStatus(h); after.VolumeID != before.VolumeID || after.State != "ready" {
				t.Errorf("before %+v, after %+v", before, after)
			}
			if n := len(r.lab.VolumesFor(h.ID)); n != 1 {
				t.Errorf("%d volumes", n)
			}
			if n := ready(h); n != 1 {
				t.Errorf("READY=1 was said %d times", n)
			}
		})
	}
}

func TestRebootAfterAPushAdoptsWhatTheVolumeHolds(t *testing.T) {
	r := published(t, nil)
	h := r.scale(1)[0]
	r.sh("echo two > /srv/source/version")
	r.ok("publish", "/srv/source")
	before := r.agentStatus(h)
	if before.Generation != 2 || r.on(h, "cat /release/current/version") != "two" {
		t.Fatalf("after the push: %+v", before)
	}
	must(t, r.lab.Reboot(within(t, 30*time.Second), h.ID))
	if after := r.agentStatus(h); after.VolumeID != before.VolumeID || after.Generation != 2 {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

func TestRebootIntoANewerGenerationCatchesUp(t *testing.T) {
	r := published(t, nil)
	h, err := r.member() // of no group: a publish does not reach it
	must(t, err)
	before := r.agentStatus(h)
	r.sh("echo two > /srv/source/version")
	r.ok("publish", "/srv/source", "--groups", r.emptyGroup())
	must(t, r.lab.Reboot(within(t, 30*time.Second), h.ID))
	after := r.agentStatus(h)
	if after.Generation != 2 || after.VolumeID != before.VolumeID || r.on(h, "cat /release/current/version") != "two" {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if n := len(r.lab.VolumesFor(h.ID)); n != 1 {
		t.Errorf("%d volumes", n)
	}
}

// emptyGroup makes a group without members.
func (r *rig) emptyGroup() string {
	r.Helper()
	must(r, r.lab.Group("empty", 0, 1))
	return "empty"
}

func TestPlainSnapshotIDAsThePointer(t *testing.T) {
	r := published(t, nil)
	h := func() *host.Host {
		id, err := r.lab.Account.RunInstance(t.Context(), r.lab.Member())
		must(t, err)
		h, err := r.lab.Booted(within(t, 30*time.Second), id)
		must(t, err)
		return h
	}()
	snap := r.agentStatus(h).SnapshotID
	if got := r.sh("cat " + lab.PointerStore + "/snap.txt"); got != snap {
		t.Errorf("snap.txt says %q, the member was made from %s", got, snap)
	}
	// It is not signed, and the volume has keys.
	r.pointer(snap + "\n")
	if err := r.lab.Reboot(within(t, 30*time.Second), h.ID); err == nil || !strings.Contains(h.Console(), "not signed by a trusted key") {
		t.Errorf("%v\n%s", err, h.Console())
	}
	// One from before there were keys.
	keyless := r.snapshotFrom(snap, "mkdir -p /run/old && mount $dev /run/old && rm /run/old/.ebs-release/keys /run/old/.ebs-release/pack-key && umount /run/old", "")
	r.pointer(keyless + "\n")
	id, err := r.lab.Account.RunInstance(t.Context(), r.lab.Member())
	must(t, err)
	old, err := r.lab.Booted(within(t, 30*time.Second), id)
	must(t, err)
	for range 2 {
		if s := r.agentStatus(old); s.State != "ready" || s.SnapshotID != keyless {
			t.Errorf("%+v", s)
		}
		must(t, r.lab.Reboot(within(t, 30*time.Second), old.ID))
	}
}

func TestStatusNamesEveryMember(t *testing.T) {
	r := published(t, nil)
	r.scale(3)
	s := r.status()
	if s.Schema != 1 || s.Generation != 1 || len(s.Members) != 3 {
		t.Fatalf("%+v", s)
	}
	for _, m := range s.Members {
		if m.Generation != 1 || m.State != "ready" || m.LifecycleState != "InService" || m.Address == "" {
			t.Errorf("%+v", m)
		}
	}
}
