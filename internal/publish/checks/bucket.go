package checks

import (
	"context"
	"fmt"
	"strings"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/doctor"
	"ebs-release/internal/follow"
	"ebs-release/internal/pointer"
	"ebs-release/internal/report"
	"ebs-release/internal/store"
)

const hasRights = "the policy of this role as packaging/iam/publisher.json has it; nothing but this check needs the right"

// Lifecycle looks at the rules of a bucket by which it removes what members boot from.
func Lifecycle(ctx context.Context, bucket *store.S3) (string, error) {
	rules, err := bucket.Lifecycle(ctx, append(pointer.Keys(), report.Prefix)...)
	if err != nil {
		return "", couldNotLook(err)
	}
	if len(rules.Harm) > 0 {
		return "", advice.Try(doctor.Minorf("rules take away what members boot from, or what they have reported: %s",
			strings.Join(rules.Harm, "; ")),
			"limit these rules to other prefixes; `ebs-release gc` removes what nobody needs")
	}
	return "no rule touches the store", nil
}

// Versions looks at what a bucket keeps of what is deleted.
func Versions(ctx context.Context, bucket *store.S3) (string, error) {
	keeps, err := bucket.Keeps(ctx)
	if err != nil {
		return "", couldNotLook(err)
	}
	if keeps.Locked != "" {
		return "", advice.Try(doctor.Minorf("object lock keeps each version of each object for %s: what gc deletes stays, and costs, until then",
			keeps.Locked), "a bucket without a default retention for the store")
	}
	if !keeps.Versions {
		return "not kept", nil
	}
	rules, err := bucket.Lifecycle(ctx, pointer.PackPrefix)
	switch {
	case err != nil:
		return "", couldNotLook(err)
	case !rules.OldVersions:
		return "", advice.Try(doctor.Minorf("the bucket keeps versions: packs that gc deletes stay, and cost, for ever"),
			"a lifecycle rule with NoncurrentVersionExpiration for %s/%s", bucket, pointer.PackPrefix)
	}
	return "kept, until a rule removes them", nil
}

// couldNotLook is a warning: a publish needs none of it.
func couldNotLook(err error) error {
	said, _ := advice.Of(err)
	return advice.Try(doctor.Minorf("could not look: %s", said), hasRights)
}

// What reading costs: S3 asks $0.0004 for 1,000 GETs in us-east-1, and an answer that nothing has
// changed counts ("Amazon S3 pricing", November 2026).
const (
	dollarsPerGet = 0.0004 / 1000
	getsPerBoot   = 3 // the pointer twice, and a pack
	month         = 30 * 24 * time.Hour
)

// CostOfReading is what that many members ask of S3.
func CostOfReading(members int) string {
	each := float64(month/follow.IntervalInS3) * dollarsPerGet
	return fmt.Sprintf("a boot is about %d GETs; a member that asks for the pointer every %v costs $%.2f a month, %d of them $%.2f "+
		"(list price of us-east-1: $0.0004 for 1,000 GETs)",
		getsPerBoot, follow.IntervalInS3, each, max(members, 1), each*float64(max(members, 1)))
}
