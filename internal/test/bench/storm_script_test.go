package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/lab/cloud"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// cliRetries are those of an AWS CLI ("AWS CLI retries", user guide): a pause of up to 1, 2, 4 …
// seconds, at most 20, by chance; standard mode (version 2, its default) makes 3 calls in all,
// legacy mode (version 1) makes 5.
func cliRetries(calls int) aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts, o.RateLimiter = calls, ratelimit.None
		o.Backoff = retry.BackoffDelayerFunc(func(attempt int, _ error) (time.Duration, error) {
			return rand.N(min(time.Second<<min(attempt, 5), 20*time.Second)), nil
		})
	})
}

// cli is the AWS CLI on one instance.
type cli struct {
	*ec2.Client

	hardware *noHardware
	instance string
	snapshot string
}

// boot does what testdata/boot.sh has EC2 do. Whatever fails ends it, as there (set -e).
func (c cli) boot(ctx context.Context) error {
	made, err := c.CreateVolume(ctx, &ec2.CreateVolumeInput{
		AvailabilityZone: aws.String("us-east-1a"), SnapshotId: &c.snapshot, VolumeType: types.VolumeTypeGp3,
	})
	if err != nil {
		return fmt.Errorf("create-volume: %w", err)
	}
	// "It will poll every 15 seconds … exit with a return code of 255 after 40 failed checks" (CLI
	// reference, ec2 wait volume-available).
	for check := 1; ; check++ {
		out, err := c.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{*made.VolumeId}})
		switch {
		case err != nil:
			return fmt.Errorf("wait volume-available: %w", err)
		case out.Volumes[0].State == types.VolumeStateAvailable:
		case check == 40:
			return errors.New("wait volume-available: max attempts exceeded")
		default:
			time.Sleep(15 * time.Second)
			continue
		}
		break
	}
	if _, err := c.AttachVolume(ctx, &ec2.AttachVolumeInput{
		VolumeId: made.VolumeId, InstanceId: &c.instance, Device: aws.String("/dev/sdf"),
	}); err != nil {
		return fmt.Errorf("attach-volume: %w", err)
	}
	c.hardware.shown(*made.VolumeId)
	return nil
}

// TestStormOfTheScript: 1,000 instances boot at once by the shell script, within AWS's published
// request limits and latencies. It has no aim: docs/compare.md has the figures.
func TestStormOfTheScript(t *testing.T) {
	t.Parallel()
	for name, calls := range map[string]int{"standard, 3 calls": 3, "legacy, 5 calls": 5} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { stormOfTheScript(t, calls) })
		})
	}
}

func stormOfTheScript(t *testing.T, calls int) {
	const instances = 1000
	m := newMembers(t, cloud.Realistic(), 7)
	m.hardware.started = make(chan struct{}, instances)
	admin := m.account.Admin()
	var ids []string
	for range instances {
		id, err := m.account.RunInstance(t.Context(), cloud.RunSpec{})
		must(t, err)
		ids = append(ids, id)
	}
	for range ids {
		<-m.hardware.started
	}
	began := time.Now()
	var mu sync.Mutex
	var took []time.Duration
	failed := map[string]int{}
	var all sync.WaitGroup
	for _, id := range ids {
		all.Go(func() {
			one := cli{ec2.New(ec2.Options{
				Region: m.account.Region(), BaseEndpoint: aws.String("http://ec2.lab"), Retryer: cliRetries(calls),
				Credentials: credentials.NewStaticCredentialsProvider(admin.AccessKeyID, admin.SecretAccessKey, ""),
				HTTPClient:  &http.Client{Transport: cloud.Transport{Handler: m.account.EC2Handler()}},
			}), m.hardware, id, m.snapshot}
			err := one.boot(t.Context())
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				step, _, _ := strings.Cut(err.Error(), ":")
				failed[step]++
				return
			}
			took = append(took, time.Since(began))
		})
	}
	all.Wait()
	slices.Sort(took)
	if len(took) == 0 || len(took) == instances { // the limits let 100 volumes through at once, and no more
		t.Fatalf("%d of %d booted", len(took), instances)
	}
	left := -1 // what the snapshot is of
	for _, v := range m.account.Volumes() {
		if v.Attachment == nil && !v.Root {
			left++
		}
	}
	t.Logf("%d of %d booted, half of them after %.0f s, the last after %.0f s; failed: %v; volumes left that are attached to nothing: %d",
		len(took), instances, took[len(took)/2].Seconds(), took[len(took)-1].Seconds(), failed, left)
}
