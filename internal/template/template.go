// Package template keeps launch templates on the snapshot that the pointer names, so that EC2
// brings a volume that is nearly current to what launches: it writes a version, reads it back,
// makes it the default, and deletes old versions that it made. It also says what versions name, for
// gc, and what groups launch from, for doctor.
//
// A template is changed in one place alone: the SnapshotId of one block device mapping.
package template

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	smithytime "github.com/aws/smithy-go/time"
)

// EC2 is what a Keeper needs of EC2. The calls that change something are made by Follow alone.
type EC2 interface {
	ec2.DescribeLaunchTemplateVersionsAPIClient
	ec2.DescribeSnapshotsAPIClient
	CreateLaunchTemplateVersion(context.Context, *ec2.CreateLaunchTemplateVersionInput,
		...func(*ec2.Options)) (*ec2.CreateLaunchTemplateVersionOutput, error)
	ModifyLaunchTemplate(context.Context, *ec2.ModifyLaunchTemplateInput, ...func(*ec2.Options)) (*ec2.ModifyLaunchTemplateOutput, error)
	DeleteLaunchTemplateVersions(context.Context, *ec2.DeleteLaunchTemplateVersionsInput,
		...func(*ec2.Options)) (*ec2.DeleteLaunchTemplateVersionsOutput, error)
}

// AutoScaling is what a Keeper needs of Auto Scaling.
type AutoScaling interface {
	autoscaling.DescribeAutoScalingGroupsAPIClient
	autoscaling.DescribeInstanceRefreshesAPIClient
}

// Keeper looks after some templates.
type Keeper struct {
	EC2       EC2
	Groups    AutoScaling
	Names     []string // of groups: those that the pointer feeds
	Templates []string // to keep on the snapshot: ids or names
	Device    string   // of the mapping to change; "": the one whose snapshot is of the store
	Keep      int      // versions of ours to keep; at least 1
}

// Snapshot is what a pointer names.
type Snapshot struct {
	ID         string // "": nothing
	Store      string // whose it is
	Generation int64  // that it holds
}

// Say is told what was done, and what is wrong and stops nothing.
type Say func(wrong bool, text string)

// seeTime is how long EC2 may take to show a version that it has made (EC2 developer guide,
// "Eventual consistency in the Amazon EC2 API").
const (
	seeTime  = 30 * time.Second
	seePause = 500 * time.Millisecond
)

// rounds is how often a template is begun anew because somebody else changed it, or the pointer.
const rounds = 5

// Follow makes the default version of each template name the snapshot that the pointer names. EC2
// has no compare-and-swap for it, so now is asked again after each change: whoever is last sees the
// pointer that counts. It goes on with the next template after an error.
func (k Keeper) Follow(ctx context.Context, now func(context.Context) (Snapshot, error), say Say) error {
	var failed []error
	for _, name := range k.Templates {
		if err := k.follow(ctx, name, now, say); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

func (k Keeper) follow(ctx context.Context, name string, now func(context.Context) (Snapshot, error), say Say) error {
	var is template
	done := "" // what it names
	for range rounds {
		wanted, err := now(ctx)
		switch {
		case err != nil || wanted.ID == "":
			return err
		case wanted.ID == done:
			return k.warnOfGroups(ctx, is, say)
		}
		is, err = k.set(ctx, name, wanted, say)
		if errors.Is(err, errMoved) {
			continue
		}
		if err != nil {
			return advice.Errorf("launch template %s goes on without %s: %w", name, wanted.ID, err)
		}
		done = wanted.ID
	}
	return fmt.Errorf("launch template %s was changed by somebody else, or the pointer was, %d times meanwhile", name, rounds)
}

// errMoved: the default version is another one now.
var errMoved = errors.New("the template was changed meanwhile")

// set makes one version the default that names the snapshot, and returns what the template has
// then.
func (k Keeper) set(ctx context.Context, name string, wanted Snapshot, say Say) (template, error) {
	t, err := k.look(ctx, name)
	if err != nil {
		return t, err
	}
	data, err := k.with(ctx, t.standard, wanted)
	if err != nil {
		return t, err
	}
	// A group on $Latest launches from what a run left that was killed before it came to the default.
	left := number(t.latest) != number(t.standard) && madeHere(t.latest) && !reflect.DeepEqual(t.latest.LaunchTemplateData, data)
	if reflect.DeepEqual(t.standard.LaunchTemplateData, data) && !left {
		return t, nil
	}
	next := t.latest
	if left || !madeHere(next) || !reflect.DeepEqual(next.LaunchTemplateData, data) {
		if next, err = k.make(ctx, name, t.standard, data, wanted); err != nil {
			return t, err
		}
	}
	is, err := k.look(ctx, name)
	if err == nil && number(is.standard) != number(t.standard) {
		err = errMoved
	}
	if err != nil {
		return t, err
	}
	in := &ec2.ModifyLaunchTemplateInput{DefaultVersion: aws.String(strconv.FormatInt(number(next), 10))}
	in.LaunchTemplateId, in.LaunchTemplateName = byName(name)
	if _, err := k.EC2.ModifyLaunchTemplate(ctx, in); err != nil {
		return t, refused("ModifyLaunchTemplate", fmt.Sprintf("make version %d the default", number(next)), err)
	}
	say(false, fmt.Sprintf("launch template %s: version %d is the default, with %s", name, number(next), wanted.ID))
	if err := k.prune(ctx, name, say); err != nil {
		say(true, advice.Errorf("old versions of launch template %s stay: %w", name, err).Error())
	}
	return template{next, next}, nil
}

// make writes a version and reads it back. One that is not what was asked for is deleted again.
func (k Keeper) make(ctx context.Context, name string, from types.LaunchTemplateVersion, data *types.ResponseLaunchTemplateData,
	wanted Snapshot) (types.LaunchTemplateVersion, error) {
	in := &ec2.CreateLaunchTemplateVersionInput{
		SourceVersion: aws.String(strconv.FormatInt(number(from), 10)), VersionDescription: aws.String(describe(wanted, number(from))),
		// All mappings: a version inherits none of their snapshots.
		LaunchTemplateData: &types.RequestLaunchTemplateData{BlockDeviceMappings: request(data.BlockDeviceMappings)},
	}
	in.LaunchTemplateId, in.LaunchTemplateName = byName(name)
	out, err := k.EC2.CreateLaunchTemplateVersion(ctx, in)
	if err != nil {
		return types.LaunchTemplateVersion{}, refused("CreateLaunchTemplateVersion", "make a version", err)
	}
	if out.LaunchTemplateVersion == nil {
		return types.LaunchTemplateVersion{}, errors.New("EC2 does not say which version it has made")
	}
	made := number(*out.LaunchTemplateVersion)
	got, err := k.readBack(ctx, name, made)
	if err != nil {
		return types.LaunchTemplateVersion{}, fmt.Errorf("read version %d back: %w", made, err)
	}
	if differs := differences(got.LaunchTemplateData, data); len(differs) > 0 {
		err := fmt.Errorf("version %d is not what was asked for, in %v: it is not made the default", made, differs)
		return types.LaunchTemplateVersion{}, errors.Join(err, k.remove(ctx, name, []int64{made}))
	}
	return got, nil
}

// readBack waits until EC2 shows a version.
func (k Keeper) readBack(ctx context.Context, name string, made int64) (types.LaunchTemplateVersion, error) {
	ctx, cancel := context.WithTimeout(ctx, seeTime)
	defer cancel()
	for {
		found, err := k.versions(ctx, name, strconv.FormatInt(made, 10))
		if err == nil && len(found) == 1 {
			return found[0], nil
		}
		if err != nil && !volume.IsNoTemplateVersion(err) {
			return types.LaunchTemplateVersion{}, err
		}
		if sleepErr := smithytime.SleepWithContext(ctx, seePause); sleepErr != nil {
			return types.LaunchTemplateVersion{}, errors.Join(err, sleepErr)
		}
	}
}

// prune deletes old versions of ours: never the default, the latest, one that somebody else made,
// or one that a group of this account names by its number, or its instance refresh does.
func (k Keeper) prune(ctx context.Context, name string, say Say) error {
	all, err := k.versions(ctx, name)
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b types.LaunchTemplateVersion) int { return int(number(b) - number(a)) })
	var ours []int64
	for i, v := range all {
		if i > 0 && madeHere(v) && !aws.ToBool(v.DefaultVersion) {
			ours = append(ours, number(v))
		}
	}
	if keep := max(k.Keep, 1) - 1; len(ours) > keep {
		ours = ours[keep:]
	} else {
		return nil
	}
	groups, err := k.groups(ctx, nil)
	if err != nil {
		return err
	}
	refreshed, err := k.refreshes(ctx, groups, all[0])
	if err != nil {
		return err
	}
	groups = append(groups, refreshed...)
	old := slices.DeleteFunc(ours, func(n int64) bool {
		return slices.ContainsFunc(groups, func(g Group) bool { return g.is(all[0]) && g.Version == strconv.FormatInt(n, 10) })
	})
	if err := k.remove(ctx, name, old); err != nil {
		return err
	}
	if len(old) > 0 {
		say(false, fmt.Sprintf("launch template %s: %d old versions are deleted", name, len(old)))
	}
	return nil
}

// perCall is the most that DeleteLaunchTemplateVersions takes, and a page has (their API
// references).
const perCall = 200

// remove deletes versions. EC2 answers with success also where it has deleted none.
func (k Keeper) remove(ctx context.Context, name string, numbers []int64) error {
	for some := range slices.Chunk(numbers, perCall) {
		in := &ec2.DeleteLaunchTemplateVersionsInput{}
		for _, n := range some {
			in.Versions = append(in.Versions, strconv.FormatInt(n, 10))
		}
		in.LaunchTemplateId, in.LaunchTemplateName = byName(name)
		out, err := k.EC2.DeleteLaunchTemplateVersions(ctx, in)
		if err != nil {
			return refused("DeleteLaunchTemplateVersions", fmt.Sprintf("delete versions %v", in.Versions), err)
		}
		for _, v := range out.UnsuccessfullyDeletedLaunchTemplateVersions {
			if e := v.ResponseError; e == nil || e.Code != types.LaunchTemplateErrorCodeLaunchTemplateVersionDoesNotExist {
				return fmt.Errorf("EC2 did not delete version %d: %+v", aws.ToInt64(v.VersionNumber), said(e))
			}
		}
	}
	return nil
}

func said(e *types.ResponseError) string {
	if e == nil {
		return "it does not say why"
	}
	return foreign(string(e.Code) + ": " + aws.ToString(e.Message))
}
