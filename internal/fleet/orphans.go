package fleet

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Orphan is a member's volume that nobody uses any more: attached to nothing, and the instance that
// it was made for is gone, or has left it behind (volume.StateLeft). It stays behind when an
// instance dies between CreateVolume and DeleteOnTermination (aggregation-service #87,
// amazon-ebs-autoscale #30).
type Orphan struct {
	VolumeID   string
	InstanceID string
	Created    time.Time
	Left       bool // by its instance, which may live on
}

// Orphans lists them, of all groups: a volume says itself whose it was. One whose instance is only
// stopped, or has just been launched, is none as long as EC2 knows the instance; the caller leaves
// young ones alone all the same, as EC2 may not know a new instance yet (kubernetes #77389).
func Orphans(ctx context.Context, machines Machines) ([]Orphan, error) {
	var found []Orphan
	pages := ec2.NewDescribeVolumesPaginator(machines, &ec2.DescribeVolumesInput{MaxResults: aws.Int32(perPage), Filters: []types.Filter{
		{Name: aws.String("tag:" + volume.TagRole), Values: []string{volume.RoleMember}},
		{Name: aws.String("status"), Values: []string{string(types.VolumeStateAvailable)}},
	}})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("look for volumes that members left behind: %w", err)
		}
		for _, v := range page.Volumes {
			o := Orphan{VolumeID: aws.ToString(v.VolumeId), Created: aws.ToTime(v.CreateTime)}
			for _, t := range v.Tags {
				switch aws.ToString(t.Key) {
				case volume.TagInstance:
					o.InstanceID = aws.ToString(t.Value)
				case volume.TagState:
					o.Left = aws.ToString(t.Value) == volume.StateLeft
				}
			}
			if len(v.Attachments) == 0 && o.InstanceID != "" {
				found = append(found, o)
			}
		}
	}
	var ids []string
	for _, o := range found {
		ids = append(ids, o.InstanceID)
	}
	there, err := existing(ctx, machines, ids)
	if err != nil {
		return nil, err
	}
	found = slices.DeleteFunc(found, func(o Orphan) bool { return there[o.InstanceID] && !o.Left })
	slices.SortFunc(found, func(a, b Orphan) int { return strings.Compare(a.VolumeID, b.VolumeID) })
	return found, nil
}

// existing tells which of the instances EC2 knows, in any state but terminated.
func existing(ctx context.Context, machines ec2.DescribeInstancesAPIClient, instances []string) (map[string]bool, error) {
	ids := slices.Compact(slices.Sorted(slices.Values(instances)))
	there := map[string]bool{}
	for batch := range slices.Chunk(ids, idsPerCall) {
		pages := ec2.NewDescribeInstancesPaginator(machines, &ec2.DescribeInstancesInput{
			MaxResults: aws.Int32(perPage),
			Filters:    []types.Filter{{Name: aws.String("instance-id"), Values: batch}},
		})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, fmt.Errorf("ask EC2 which of %d instances are gone: %w", len(batch), err)
			}
			for _, r := range page.Reservations {
				for _, i := range r.Instances {
					there[aws.ToString(i.InstanceId)] = i.State == nil || i.State.Name != types.InstanceStateNameTerminated
				}
			}
		}
	}
	return there, nil
}
