package volume

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Statuses is as much of EC2 as Initialized needs.
type Statuses interface {
	DescribeVolumeStatus(context.Context, *ec2.DescribeVolumeStatusInput, ...func(*ec2.Options)) (*ec2.DescribeVolumeStatusOutput, error)
}

// Initialization is how far EBS has loaded a volume from its snapshot by itself, as of up to five
// minutes ago (API reference, VolumeStatusItem).
type Initialization struct {
	Provisioned bool // at a VolumeInitializationRate; else blocks load as they are read
	Percent     int
	Left        time.Duration // EBS's estimate, of a provisioned one
}

// Initialized asks EC2 for it.
func Initialized(ctx context.Context, api Statuses, id string) (Initialization, error) {
	out, err := api.DescribeVolumeStatus(ctx, &ec2.DescribeVolumeStatusInput{VolumeIds: []string{id}})
	if err != nil {
		return Initialization{}, fmt.Errorf("ask how far EBS has loaded %s: %w", id, explain("DescribeVolumeStatus", err))
	}
	for _, v := range out.VolumeStatuses {
		if is := v.InitializationStatusDetails; aws.ToString(v.VolumeId) == id && is != nil {
			return Initialization{
				Provisioned: is.InitializationType == types.InitializationTypeProvisionedRate,
				Percent:     int(min(max(aws.ToInt64(is.Progress), 0), 100)),
				Left:        time.Duration(min(max(aws.ToInt64(is.EstimatedTimeToCompleteInSeconds), 0), mostSecondsLeft)) * time.Second,
			}, nil
		}
	}
	return Initialization{}, fmt.Errorf("ask how far EBS has loaded %s: EC2 does not say: the volume is of no snapshot, or too new", id)
}

// mostSecondsLeft is more than 64 TiB take at the lowest rate of 100 MiB/s.
const mostSecondsLeft = 1 << 20
