package checks

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/doctor"
	"ebs-release/internal/fleet"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// API is what is asked of EC2: each call but DescribeVolumes as a DryRun.
type API interface {
	DescribeSnapshots(context.Context, *ec2.DescribeSnapshotsInput, ...func(*ec2.Options)) (*ec2.DescribeSnapshotsOutput, error)
	CreateTags(context.Context, *ec2.CreateTagsInput, ...func(*ec2.Options)) (*ec2.CreateTagsOutput, error)
	DeleteVolume(context.Context, *ec2.DeleteVolumeInput, ...func(*ec2.Options)) (*ec2.DeleteVolumeOutput, error)
}

// OfServer makes sure that a volume is the release server's, not one that an agent made from a
// snapshot.
func OfServer(v volume.Volume) error {
	if role := v.Tags[volume.TagRole]; role != volume.RoleServer {
		return advice.Try(fmt.Errorf("%s has the tag %s=%q, want %s; is this the release server?", v.ID, volume.TagRole, role, volume.RoleServer),
			"ebs-release init, which sets the tag")
	}
	return nil
}

// Rights asks EC2 for each right on the release volume of a store that no other check has used by
// then, side by side.
func Rights(ctx context.Context, api API, volumeID, store string) error {
	var toList error
	var asked sync.WaitGroup
	asked.Go(func() { toList = allowed("ec2:DescribeSnapshots", tryList(ctx, api)) })
	toTag := allowed("ec2:CreateTags", tryTag(ctx, api, volumeID, map[string]string{
		volume.TagRole: volume.RoleServer, volume.TagStore: store,
	}))
	asked.Wait()
	return cmp.Or(toList, toTag)
}

// RightsOnMember tries what publish and gc do with a member: report on what carries its tags, and
// delete the volume that was made for it; "": it has none.
func RightsOnMember(ctx context.Context, api API, tagged, made string) error {
	err := tryTag(ctx, api, tagged, map[string]string{volume.TagGeneration: "1", volume.TagRelease: "x"})
	if err := allowed("ec2:CreateTags on "+tagged, err); err != nil || made == "" {
		return err
	}
	_, err = api.DeleteVolume(ctx, &ec2.DeleteVolumeInput{DryRun: aws.Bool(true), VolumeId: aws.String(made)})
	if err := allowed("ec2:DeleteVolume on "+made, err); err != nil {
		return doctor.Minorf("%w; `ebs-release gc` needs it", err)
	}
	return nil
}

// Clock asks EC2 for the time: each answer has it, also that to a DryRun.
func Clock(ctx context.Context, api API) error {
	if off := volume.ClockOff(tryList(ctx, api)); off != 0 {
		return doctor.Minorf("%w", volume.ClockError(off))
	}
	return nil
}

func tryList(ctx context.Context, api API) error {
	_, err := api.DescribeSnapshots(ctx,
		&ec2.DescribeSnapshotsInput{DryRun: aws.Bool(true), OwnerIds: []string{"self"}, MaxResults: aws.Int32(volume.PerPage)})
	return err
}

func tryTag(ctx context.Context, api API, id string, tags map[string]string) error {
	in := &ec2.CreateTagsInput{DryRun: aws.Bool(true), Resources: []string{id}}
	for key, value := range tags {
		in.Tags = append(in.Tags, types.Tag{Key: aws.String(key), Value: aws.String(value)})
	}
	_, err := api.CreateTags(ctx, in)
	return err
}

// allowed: EC2 answers a DryRun that would have been allowed with the error DryRunOperation.
func allowed(action string, err error) error {
	switch {
	case volume.IsDryRun(err):
		return nil
	case err == nil:
		return fmt.Errorf("%s: EC2 carried out a call that had DryRun set", action)
	}
	return fmt.Errorf("%s is not allowed, or failed: %w", action, err)
}

// LeftOver warns of volumes whose instances are gone for more than a day.
func LeftOver(orphans []fleet.Orphan, now time.Time) error {
	old := 0
	for _, o := range orphans {
		if now.Sub(o.Created) > 24*time.Hour {
			old++
		}
	}
	if old == 0 {
		return nil
	}
	return advice.Try(doctor.Minorf("%d volumes of instances that are gone are older than a day", old), "ebs-release gc (it removes them)")
}
