package e2evm

import (
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
)

// ec2 is a client with the rights of the account's owner.
func (r *rig) ec2() *ec2.Client {
	admin := r.lab.Account.Admin()
	return ec2.New(ec2.Options{
		Region: r.lab.Account.Region(), BaseEndpoint: aws.String(r.lab.Endpoint),
		Credentials: credentials.NewStaticCredentialsProvider(admin.AccessKeyID, admin.SecretAccessKey, ""),
	})
}

// volume makes a blank one, and returns its id when it is available.
func (r *rig) volume(gib int32) string {
	r.Helper()
	out, err := r.ec2().CreateVolume(r.Context(), &ec2.CreateVolumeInput{AvailabilityZone: aws.String(r.lab.Account.Region() + "a"), Size: aws.Int32(gib)})
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

// snapshot takes one of a volume as it is now, tagged as a release's, and returns its id when it is completed.
func (r *rig) snapshot(volumeID string) string {
	r.Helper()
	out, err := r.ec2().CreateSnapshot(r.Context(), &ec2.CreateSnapshotInput{VolumeId: &volumeID, TagSpecifications: []types.TagSpecification{{
		ResourceType: types.ResourceTypeSnapshot, Tags: []types.Tag{{Key: aws.String("ebs-release:role"), Value: aws.String("release")}},
	}}})
	must(r, err)
	must(r, r.lab.Account.Wait(within(r, stepTime), func() bool {
		return slices.ContainsFunc(r.lab.Account.Snapshots(), func(s cloud.Snapshot) bool { return s.ID == *out.SnapshotId && s.State == "completed" })
	}))
	return *out.SnapshotId
}

// current is the snapshot that the pointer names.
func (r *rig) current() string { r.Helper(); return r.sh("cat " + lab.PointerStore + "/snap.txt") }

// pointTo lets the pointer name another snapshot, behind the publisher's back.
func (r *rig) pointTo(snapshotID string) {
	r.Helper()
	r.sh(fmt.Sprintf("cd %s; sed 's/%s/%s/' release.json >new; mv new release.json; echo %s >new; mv new snap.txt", lab.PointerStore, r.current(), snapshotID, snapshotID))
}
