package account

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/boot"
	"ebs-release/internal/instance"
	"ebs-release/internal/pointer"
	"ebs-release/internal/report"
	"ebs-release/internal/store"
	"ebs-release/internal/trouble"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// inStore is where this member reports whose store is in S3.
type inStore struct {
	bucket *store.S3
	caller string // as IAM calls it
}

// openReports asks STS under which name this member may write: nothing on the instance knows it.
func openReports(ctx context.Context, place string, cfg aws.Config, instanceID string) (*inStore, error) {
	load := func(context.Context) (aws.Config, error) { return cfg, nil }
	fetcher, err := pointer.NewFetcher(place, load, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	from, err := fetcher.Store(ctx)
	if err != nil {
		return nil, err
	}
	bucket, ok := from.(*store.S3)
	if !ok {
		return nil, fmt.Errorf("%s is not in S3", fetcher.Place())
	}
	asking := sts.NewFromConfig(cfg, func(o *sts.Options) { o.Retryer = volume.MemberRetryer() })
	who, err := asking.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return nil, advice.Try(fmt.Errorf("ask STS for the name under which this member reports to %s: %w", fetcher.Place(), err),
			"a way to STS from here: a NAT, or an interface endpoint for com.amazonaws.%s.sts", cfg.Region)
	}
	caller := aws.ToString(who.UserId)
	return &inStore{bucket, caller}, report.CallerOf(caller, instanceID)
}

// openingTime is well below the time of a report, which then asks once more, and says why not.
const openingTime = 10 * time.Second

// openAhead begins openReports: it takes as long as the pointer does, and a boot waits for that
// anyway.
func (a *Account) openAhead(ctx context.Context) {
	place, cfg, id := a.settings.Pointer, a.cfg, a.me.InstanceID
	if !a.InS3() {
		return
	}
	opened := make(chan *inStore, 1)
	a.opening = opened
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), openingTime) // the stage ends before
	go func() {
		defer cancel()
		in, err := openReports(ctx, place, cfg, id)
		if err != nil {
			in = nil
		}
		opened <- in
	}()
}

// opened is what openAhead has begun, or what is asked for now.
func (a *Account) opened(ctx context.Context) (*inStore, error) {
	if a.opening != nil {
		select {
		case in := <-a.opening:
			a.opening = nil
			if in != nil {
				return in, nil
			}
		case <-ctx.Done():
		}
	}
	return openReports(ctx, a.settings.Pointer, a.cfg, a.me.InstanceID)
}

// reportToStore is Report where the store is in S3. The object is there until the next generation
// has one, so the host key is in each.
func (a *Account) reportToStore(ctx context.Context, v boot.Volume, r boot.Report, t trouble.Trouble) error {
	if a.reports == nil {
		var err error
		if a.reports, err = a.opened(ctx); err != nil {
			return err
		}
	}
	if !r.Ready { // the boot failed after it had reported
		return report.Withdraw(ctx, a.reports.bucket, a.reports.caller, r.Generation)
	}
	for n := r.Above; n > r.Generation && n > r.Above-mostWithdrawn; n-- {
		if err := report.Withdraw(ctx, a.reports.bucket, a.reports.caller, n); err != nil {
			return err
		}
	}
	says := report.Report{
		Caller: a.reports.caller, Generation: r.Generation, State: volume.StateReady, VolumeID: v.ID, Release: r.Release, HostKey: r.HostKey,
		Trouble: t, Verified: a.verified(v.ID, r.Release),
	}
	if r.Pending {
		says.State = volume.StateHookFailed
	}
	if says.HostKey == "" {
		says.HostKey, _ = a.HostKey(ctx) // a boot has said what is wrong with it
	}
	return report.Put(ctx, a.reports.bucket, says)
}

// mostWithdrawn is how many generations above the one that is taken up again are withdrawn.
const mostWithdrawn = 100

// Withdraw takes back what this member has reported to a store in S3 of a generation that no
// publish made: of several reports the highest counts.
func Withdraw(ctx context.Context, place string, generation int64, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, servedLimit)
	defer cancel()
	cfg, me, err := instance.Load(ctx, log)
	if err != nil {
		return err
	}
	to, err := openReports(ctx, place, cfg, me.InstanceID)
	if err != nil {
		return err
	}
	return report.Withdraw(ctx, to.bucket, to.caller, generation)
}
