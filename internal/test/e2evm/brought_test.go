package e2evm

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/vm"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// TestVMBroughtVolume: a disk that a real kernel has from the start is adopted without a call of
// EC2 but the report, caught up, served, and taken on again after a reboot and a stop. One that is
// of no use is left as it is, and leads to an own one.
func TestVMBroughtVolume(t *testing.T) {
	r := newRig(t, setup{})
	one := r.snapshotOfOne()
	r.publish("two") // what comes is one behind
	m := r.launch(bringing(one))
	v := r.broughtTo(m.ID)
	t.Run("adopted and caught up", func(t *testing.T) {
		r := r.in(t)
		r.servesBrought(m, "two", v)
		r.inOrder(m)
		r.never(m, "one")
	})
	t.Run("after a reboot", func(t *testing.T) {
		r := r.in(t)
		r.reboot(m)
		r.servesBrought(m, "two", v)
	})
	t.Run("after a stop, on what was published meanwhile", func(t *testing.T) {
		r := r.in(t)
		r.stop(m)
		r.publish("three")
		r.start(m)
		r.servesBrought(m, "three", v)
		r.never(m, "two")
	})
	must(t, r.lab.Account.TerminateInstance(m.ID))
	t.Run("one of no use", func(t *testing.T) {
		r := r.in(t)
		m := r.launch(bringing(r.spoiled(one, "rm /mnt/.ebs-release/keys")))
		v := r.broughtTo(m.ID)
		r.ready(m, "three")
		r.inJournal(m, "ebs-release-agent.service", "it has no keys")
		if got := r.on(m, "findmnt --noheadings --list --output SOURCE --types ext4 | grep -c nvme"); got != "2" { // the root, and one release
			t.Errorf("%s disks are mounted", got)
		}
		if now := r.broughtTo(m.ID); now.ID != v.ID || len(now.Tags) > 0 || now.State != "in-use" {
			t.Errorf("what came is %+v, it was %+v", now, v)
		}
	})
}

// bringing is a launch with a volume of a snapshot.
func bringing(snapshot string) cloud.RunSpec {
	spec := member
	spec.Mappings = []cloud.Mapping{{Device: "/dev/sdf", SnapshotID: snapshot, Type: "gp3", DeleteOnTermination: true}}
	return spec
}

// snapshotOfOne is that of generation 1.
func (r *rig) snapshotOfOne() string {
	r.Helper()
	all := r.lab.Account.Snapshots()
	at := slices.IndexFunc(all, func(s cloud.Snapshot) bool {
		return s.Tags["ebs-release:generation"] == "1" && s.State == "completed"
	})
	if at < 0 {
		r.Fatalf("no snapshot of generation 1 in %+v", all)
	}
	return all[at].ID
}

// spoiled is a snapshot of a release volume, below /mnt of the release server, on which a script
// ran.
func (r *rig) spoiled(snapshot, script string) (id string) {
	r.Helper()
	api, ctx := r.lab.EC2(), within(r, stepTime)
	zone := ""
	for _, i := range r.lab.Account.Instances() {
		if i.ID == r.server.ID {
			zone = i.Zone
		}
	}
	made, err := api.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: &zone, SnapshotId: &snapshot})
	must(r, err)
	r.waitVolume(*made.VolumeId, "available")
	r.attach(*made.VolumeId, r.server.ID, "/dev/sdg")
	r.sh("disk=/dev/$(basename $(dirname $(dirname $(grep -l " + cloud.SerialOf(*made.VolumeId) + " /sys/block/*/device/serial)))); " +
		"mount $disk /mnt; " + script + "; umount /mnt; blockdev --flushbufs $disk")
	r.detach(*made.VolumeId)
	taken, err := api.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{VolumeId: made.VolumeId, Description: aws.String("spoiled")})
	must(r, err)
	must(r, r.lab.Account.Wait(ctx, func() bool {
		return slices.ContainsFunc(r.lab.Account.Snapshots(), func(s cloud.Snapshot) bool { return s.ID == *taken.SnapshotId && s.State == "completed" })
	}))
	return *taken.SnapshotId
}

// broughtTo is the volume that came with an instance.
func (r *rig) broughtTo(instance string) cloud.Volume {
	r.Helper()
	all := r.lab.Account.Volumes()
	at := slices.IndexFunc(all, func(v cloud.Volume) bool {
		return !v.Root && v.Attachment != nil && v.Attachment.InstanceID == instance && v.Attachment.Device == "/dev/sdf"
	})
	if at < 0 {
		r.Fatalf("no volume came with %s: %+v", instance, all)
	}
	return all[at]
}

// servesBrought waits for the application, and fails unless it reads the volume that came, which
// nobody has claimed, and EC2 was asked for nothing but tags on the instance.
func (r *rig) servesBrought(m *vm.Machine, release string, v cloud.Volume) {
	r.Helper()
	r.marked(m, starts(release))
	must(r, m.Booted(within(r, bootTime)))
	if own := r.lab.VolumesFor(m.ID); len(own) > 0 {
		r.Errorf("the agent has made or claimed %+v:\n%s", own, r.on(m, "journalctl --boot --output=cat --unit=ebs-release-agent"))
	}
	if now := r.broughtTo(m.ID); now.ID != v.ID || len(now.Tags) > 0 {
		r.Errorf("what came is %+v, it was %+v", now, v)
	}
	if got := r.on(m, `findmnt -n -o SOURCE /release | xargs -n 1 -I '{}' sh -c 'cat /sys/block/$(basename {})/device/serial'`); strings.TrimSpace(got) != cloud.SerialOf(v.ID) {
		r.Errorf("at /release is %q, what came is %s", got, v.ID)
	}
	if got := r.on(m, "ebs-release-agent status"); !strings.Contains(got, fmt.Sprintf("%s (came with the instance)", v.ID)) {
		r.Errorf("the agent's status: %s", got)
	}
	for _, c := range r.lab.Account.CallsBy(m.ID) {
		if c.Service == "ec2" && (c.Action != "CreateTags" || c.Code != "") {
			r.Errorf("the agent called %s %s", c.Action, c.Code)
		}
	}
}
