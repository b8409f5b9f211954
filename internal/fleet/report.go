package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Tagger is what Report needs of EC2.
type Tagger interface {
	CreateTags(context.Context, *ec2.CreateTagsInput, ...func(*ec2.Options)) (*ec2.CreateTagsOutput, error)
	DescribeVolumes(context.Context, *ec2.DescribeVolumesInput, ...func(*ec2.Options)) (*ec2.DescribeVolumesOutput, error)
	DescribeInstances(context.Context, *ec2.DescribeInstancesInput, ...func(*ec2.Options)) (*ec2.DescribeInstancesOutput, error)
}

const (
	resourcesOfTag = 1000 // in one call (CreateTags, API reference)
	mostRefused    = 4    // this many volumes refused one by one are no accident: a right is missing
)

// Report writes onto members' volumes, or onto them (Tagged), that they are on generation now, and
// in which state, "": the one that their tags have. The publisher does this after it activated a
// release, because the ssh user on a member has no rights in EC2. What is gone needs no tags, and
// keeps no other from its own. The error names those that have none.
func Report(ctx context.Context, tagger Tagger, tagged []string, generation int64, release, state string) error {
	r := reporter{tagger: tagger, tags: []types.Tag{
		{Key: aws.String(volume.TagGeneration), Value: aws.String(strconv.FormatInt(generation, 10))},
		{Key: aws.String(volume.TagRelease), Value: aws.String(release)},
	}}
	if state != "" {
		r.tags = append(r.tags, types.Tag{Key: aws.String(volume.TagState), Value: aws.String(state)})
	}
	for batch := range slices.Chunk(tagged, resourcesOfTag) {
		if err := r.batch(ctx, batch); err != nil {
			return fmt.Errorf("tag %d members with generation %d: %w", len(batch), generation, err)
		}
	}
	return nil
}

// reporter writes the same tags onto volumes and instances.
type reporter struct {
	tagger  Tagger
	tags    []types.Tag
	refused []error // of single ones
}

// batch tags all at once, if it can. One volume that is gone makes EC2 refuse the whole call, and
// not always as such: a policy with conditions on the volume's tags finds none, so that it is
// UnauthorizedOperation.
func (r *reporter) batch(ctx context.Context, volumeIDs []string) error {
	err := r.tag(ctx, volumeIDs)
	if !isRefused(err) {
		return err
	}
	there, err := r.there(ctx, volumeIDs)
	if err != nil || len(there) == 0 {
		return err
	}
	if err := r.halve(ctx, there); err != nil {
		return err
	}
	return errors.Join(r.refused...)
}

// halve finds the volumes that EC2 refuses although it lists them: their end is too young for the
// listing, or a right is missing.
func (r *reporter) halve(ctx context.Context, volumeIDs []string) error {
	err := r.tag(ctx, volumeIDs)
	switch half := len(volumeIDs) / 2; {
	case !isRefused(err):
		return err
	case half == 0:
		r.refused = append(r.refused, fmt.Errorf("%s: %w", volumeIDs[0], err))
		return nil
	default:
		if err := r.halve(ctx, volumeIDs[:half]); err != nil || len(r.refused) >= mostRefused {
			return err
		}
		return r.halve(ctx, volumeIDs[half:])
	}
}

func (r *reporter) tag(ctx context.Context, volumeIDs []string) error {
	_, err := r.tagger.CreateTags(ctx, &ec2.CreateTagsInput{Resources: volumeIDs, Tags: r.tags})
	return err
}

// there returns those that EC2 still lists.
func (r *reporter) there(ctx context.Context, tagged []string) (there []string, err error) {
	var volumeIDs, instances []string
	for _, id := range tagged {
		if strings.HasPrefix(id, "i-") {
			instances = append(instances, id)
		} else {
			volumeIDs = append(volumeIDs, id)
		}
	}
	known, err := existing(ctx, r.tagger, instances)
	if err != nil {
		return nil, err
	}
	there = slices.DeleteFunc(instances, func(id string) bool { return !known[id] })
	for batch := range slices.Chunk(volumeIDs, idsPerCall) {
		pages := ec2.NewDescribeVolumesPaginator(r.tagger, &ec2.DescribeVolumesInput{
			MaxResults: aws.Int32(perPage),
			Filters:    []types.Filter{{Name: aws.String("volume-id"), Values: batch}},
		})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, fmt.Errorf("ask EC2 which of %d volumes are gone: %w", len(batch), err)
			}
			for _, v := range page.Volumes {
				if v.State != types.VolumeStateDeleting && v.State != types.VolumeStateDeleted {
					there = append(there, aws.ToString(v.VolumeId))
				}
			}
		}
	}
	return there, nil
}

// isRefused: EC2 changed nothing, for a reason that may be that of one volume.
func isRefused(err error) bool {
	return volume.IsNotFound(err) || volume.IsInstanceNotFound(err) || volume.IsDenied(err)
}
