package store

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// Lifecycle is what the rules of a bucket do to the objects of a store in time.
type Lifecycle struct {
	// Harm has one line for each rule that removes objects of the store or moves them elsewhere, by
	// its name: "cleanup: removes release.json, packs/ after 30 days".
	Harm []string
	// OldVersions says that a rule removes versions of packs that were replaced or deleted.
	OldVersions bool
}

// Lifecycle asks what becomes of keys below the store, and of all that is below a key with a slash
// at its end.
func (s *S3) Lifecycle(ctx context.Context, keys ...string) (l Lifecycle, err error) {
	out, err := s.api.GetBucketLifecycleConfiguration(ctx, &s3.GetBucketLifecycleConfigurationInput{Bucket: &s.bucket})
	if answerTo(err).code == codeNoRules {
		return l, nil
	}
	if err != nil {
		return l, s.failed(opLook, "", "s3:GetLifecycleConfiguration", err)
	}
	for _, rule := range out.Rules {
		if rule.Status != types.ExpirationStatusEnabled {
			continue
		}
		hit := s.keysOf(rule, keys)
		if len(hit) == 0 {
			continue
		}
		l.OldVersions = l.OldVersions || rule.NoncurrentVersionExpiration != nil
		for _, does := range effects(rule) {
			name := cmp.Or(aws.ToString(rule.ID), "a rule")
			l.Harm = append(l.Harm, fmt.Sprintf("%s: %s %s %s", name, does.what, strings.Join(hit, ", "), does.when))
		}
	}
	return l, nil
}

// keysOf are the keys that a rule is about. One with tags is about none: our objects have none. A
// size leaves some out, and is not looked at.
func (s *S3) keysOf(rule types.LifecycleRule, keys []string) (hit []string) {
	prefix := aws.ToString(rule.Prefix) //nolint:staticcheck // older rules have it there
	if f := rule.Filter; f != nil {
		prefix = aws.ToString(cmp.Or(f.Prefix, rule.Prefix)) //nolint:staticcheck // the same
		if f.And != nil {
			prefix = aws.ToString(f.And.Prefix)
		}
		if f.Tag != nil || f.And != nil && len(f.And.Tags) > 0 {
			return nil
		}
	}
	for _, key := range keys {
		full := s.prefix + key
		if strings.HasPrefix(full, prefix) || strings.HasSuffix(full, "/") && strings.HasPrefix(prefix, full) {
			hit = append(hit, key)
		}
	}
	return hit
}

type effect struct{ what, when string }

// effects are what a rule does to objects that are current. That it ends uploads or removes old
// versions is good.
func effects(rule types.LifecycleRule) (all []effect) {
	if e := rule.Expiration; e != nil && (e.Days != nil || e.Date != nil) {
		all = append(all, effect{"removes", when(e.Date, e.Days)})
	}
	for _, t := range rule.Transitions {
		all = append(all, effect{"moves to " + string(t.StorageClass), when(t.Date, t.Days)})
	}
	return all
}

func when(date *time.Time, after *int32) string {
	if date != nil {
		return "on " + date.Format("2006-01-02")
	}
	return "after " + days(after)
}

func days(n *int32) string {
	if aws.ToInt32(n) == 1 {
		return "1 day"
	}
	return fmt.Sprintf("%d days", aws.ToInt32(n))
}

// Keeping is what a bucket keeps that was deleted or replaced.
type Keeping struct {
	Versions bool   // each version
	Locked   string // how long each must stay, such as "1 day (GOVERNANCE)"; "": as long as one likes
}

// Keeps asks for versioning and object lock.
func (s *S3) Keeps(ctx context.Context) (k Keeping, err error) {
	versioning, err := s.api.GetBucketVersioning(ctx, &s3.GetBucketVersioningInput{Bucket: &s.bucket})
	if err != nil {
		return k, s.failed(opLook, "", "s3:GetBucketVersioning", err)
	}
	k.Versions = versioning.Status == types.BucketVersioningStatusEnabled
	lock, err := s.api.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: &s.bucket})
	if answerTo(err).code == codeNoLock {
		return k, nil
	}
	if err != nil {
		return k, s.failed(opLook, "", "s3:GetBucketObjectLockConfiguration", err)
	}
	c := lock.ObjectLockConfiguration
	if c == nil || c.Rule == nil || c.Rule.DefaultRetention == nil {
		return k, nil
	}
	r := c.Rule.DefaultRetention
	k.Locked = fmt.Sprintf("%s (%s)", days(r.Days), r.Mode)
	if r.Years != nil {
		k.Locked = fmt.Sprintf("%d years (%s)", *r.Years, r.Mode)
	}
	return k, nil
}
