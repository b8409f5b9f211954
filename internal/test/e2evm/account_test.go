package e2evm

import (
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/vm"
	"ebs-release/internal/pointer"
)

// volume makes one of 1 GiB, a blank one when there is no snapshot, and returns its id when it is
// available.
func (r *rig) volume(snapshotID string) string {
	r.Helper()
	in := &ec2.CreateVolumeInput{AvailabilityZone: aws.String(r.lab.Account.Region() + "a"), Size: aws.Int32(1)}
	if snapshotID != "" {
		in.SnapshotId = &snapshotID
	}
	out, err := r.lab.EC2().CreateVolume(r.Context(), in)
	must(r, err)
	r.waitVolume(*out.VolumeId, "available")
	return *out.VolumeId
}

func (r *rig) waitVolume(id, state string) {
	r.Helper()
	must(r, r.lab.Account.Wait(within(r, stepTime), func() bool {
		return slices.ContainsFunc(r.lab.Account.Volumes(), func(v cloud.Volume) bool {
			return v.ID == id && v.State == state && (v.Attachment == nil || v.Attachment.State == "attached")
		})
	}))
}

// snapshot takes one of a volume as it is now, tagged as a release's, and returns its id when it is
// completed.
func (r *rig) snapshot(volumeID string) string {
	r.Helper()
	out, err := r.lab.EC2().CreateSnapshot(r.Context(), &ec2.CreateSnapshotInput{VolumeId: &volumeID, TagSpecifications: []types.TagSpecification{{
		ResourceType: types.ResourceTypeSnapshot, Tags: []types.Tag{{Key: aws.String("ebs-release:role"), Value: aws.String("release")}},
	}}})
	must(r, err)
	must(r, r.lab.Account.Wait(within(r, stepTime), func() bool {
		return slices.ContainsFunc(r.lab.Account.Snapshots(), func(s cloud.Snapshot) bool { return s.ID == *out.SnapshotId && s.State == "completed" })
	}))
	return *out.SnapshotId
}

// attach shows a volume to an instance, detach takes it away; they wait until EC2 says so.
func (r *rig) attach(volumeID, instanceID, device string) {
	r.Helper()
	_, err := r.lab.EC2().AttachVolume(r.Context(), &ec2.AttachVolumeInput{VolumeId: &volumeID, InstanceId: &instanceID, Device: &device})
	must(r, err)
	r.waitVolume(volumeID, "in-use")
}

func (r *rig) detach(volumeID string) {
	r.Helper()
	_, err := r.lab.EC2().DetachVolume(r.Context(), &ec2.DetachVolumeInput{VolumeId: &volumeID})
	must(r, err)
	r.waitVolume(volumeID, "available")
}

// stop presses the power button of an instance, and waits until it is off.
func (r *rig) stop(m *vm.Machine) {
	r.Helper()
	must(r, r.lab.Account.StopInstance(m.ID))
	r.waitInstance(m.ID, "stopped")
}

// start switches an instance on again.
func (r *rig) start(m *vm.Machine) {
	r.Helper()
	must(r, r.lab.Account.StartInstance(m.ID))
	r.waitInstance(m.ID, "running")
}

func (r *rig) waitInstance(id, state string) {
	r.Helper()
	must(r, r.lab.Account.Wait(within(r, bootTime), func() bool {
		return slices.ContainsFunc(r.lab.Account.Instances(), func(i cloud.Instance) bool { return i.ID == id && i.State == state })
	}))
}

// current is the snapshot that the pointer names.
func (r *rig) current() string { r.Helper(); return r.sh("cat " + lab.PointerStore + "/snap.txt") }

// pointTo lets the pointer name another snapshot, behind the publisher's back.
func (r *rig) pointTo(snapshotID string) {
	r.Helper()
	p, err := pointer.Parse([]byte(r.sh("cat " + lab.PointerStore + "/release.json")))
	must(r, err)
	key, err := pointer.ParseSecretKey(r.sh("cut -d' ' -f1 " + lab.SigningKey))
	must(r, err)
	for region := range p.Snapshots {
		p.Snapshots[region] = snapshotID
	}
	p.Edges, p.SnapshotOf = nil, nil
	document, err := p.Sign(key)
	must(r, err)
	r.sh(fmt.Sprintf("cd %s; cat >new <<'END'\n%s\nEND\nmv new release.json; echo %s >new; mv new snap.txt", lab.PointerStore, document, snapshotID))
}
