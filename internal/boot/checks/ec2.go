package checks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/doctor"
	"ebs-release/internal/instance"
	"ebs-release/internal/volume"
	"ebs-release/internal/words"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
)

func (c *Checks) configuration(context.Context) doctor.Finding {
	if c.settings.Pointer == "" {
		return doctor.Failure("set pointer in "+c.settings.ConfigFile+", or EBS_RELEASE_POINTER", "there is no pointer")
	}
	return doctor.Fine("pointer %s, mount point %s", c.settings.Pointer, c.settings.Volume.Owner.MountPoint)
}

func (c *Checks) metadata(ctx context.Context) doctor.Finding {
	cfg, err := instance.LoadConfig(ctx)
	if err != nil {
		return doctor.Failure("look at AWS_CONFIG_FILE and the AWS_… variables", "read the AWS configuration: %v", err)
	}
	c.cfg = &cfg
	me, err := instance.Identify(ctx, instance.NewClient(cfg), c.log)
	if err != nil {
		return doctor.Failure("is this an EC2 instance, with IMDSv2 switched on and a hop limit of 1 or more?", "%s", short(err))
	}
	c.me = &me
	return doctor.Fine("%s, a %s in %s", me.InstanceID, me.InstanceType, me.AvailabilityZone)
}

func (c *Checks) region(context.Context) doctor.Finding {
	if c.cfg == nil {
		return doctor.Warning("see the first line that fails", "not known")
	}
	if c.cfg.Region == "" && c.me != nil {
		c.cfg.Region = c.me.Region
	}
	switch {
	case c.cfg.Region == "":
		c.cfg = nil
		return doctor.Warning("see the metadata service, or set AWS_REGION", "not known")
	case c.me != nil && c.me.Region != c.cfg.Region:
		return doctor.Failure("take AWS_REGION out of the agent's environment",
			"%s is set, and this instance is in %s: a volume cannot be attached across Regions", c.cfg.Region, c.me.Region)
	}
	return doctor.Fine("%s", c.cfg.Region)
}

func (c *Checks) credentials(ctx context.Context) doctor.Finding {
	if c.cfg == nil {
		return doctor.Warning("see the first line that fails", "not looked for: there is no Region")
	}
	if c.cfg.Credentials == nil {
		return doctor.Failure("give the instance an instance profile with a role", "there are none")
	}
	got, err := c.cfg.Credentials.Retrieve(ctx)
	if err != nil {
		return doctor.Failure("give the instance an instance profile with a role", "%s", short(err))
	}
	c.api = volume.NewEC2(*c.cfg)
	return doctor.Fine("%s, from %s", got.AccessKeyID, got.Source)
}

// awsConfig is for a pointer in S3.
func (c *Checks) awsConfig(context.Context) (aws.Config, error) {
	if c.cfg == nil {
		return aws.Config{}, errors.New("there is no Region")
	}
	return *c.cfg, nil
}

func (c *Checks) describeVolumes(ctx context.Context) doctor.Finding {
	if f, ready := c.ready(); !ready {
		return f
	}
	mine, err := volume.New(c.api, volume.DefaultTiming(), c.log).Mine(ctx, c.request().Owner)
	if err != nil {
		c.denied = true
		return c.refusal("ec2:DescribeVolumes", err)
	}
	c.mine = mine
	var words []string
	for _, v := range mine {
		words = append(words, fmt.Sprintf("%s (%s)", v.ID, v.State))
	}
	switch len(mine) {
	case 0:
		return doctor.Fine("allowed; this instance has no release volume yet")
	case 1:
		return doctor.Fine("allowed; the release volume is %s", words[0])
	}
	return doctor.Warning("ebs-release-agent up (it keeps one and removes the others)",
		"this instance has %d release volumes: %s", len(mine), strings.Join(words, ", "))
}

// request is the release volume of this instance.
func (c *Checks) request() volume.Request {
	r := c.settings.Volume
	r.Owner.InstanceID, r.Owner.InstanceType, r.Owner.Zone = c.me.InstanceID, c.me.InstanceType, c.me.AvailabilityZone
	r.SnapshotID = c.snapshot
	return r
}

// describeSnapshot needs a right that a boot does not.
func (c *Checks) describeSnapshot(ctx context.Context) doctor.Finding {
	if f, ready := c.ready(); !ready {
		return f
	}
	if c.snapshot == "" {
		return doctor.Warning("see the pointer", "no snapshot to look at")
	}
	out, err := c.api.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{c.snapshot}})
	switch {
	case volume.IsSnapshotNotFound(err):
		return doctor.Failure("publish again; a snapshot is of one Region and one account (is it shared with this one?)",
			"%s does not exist in %s", c.snapshot, c.cfg.Region)
	case volume.IsDenied(err):
		return doctor.Warning("allow ec2:DescribeSnapshots",
			"not allowed to look at %s, nor, at a boot, for newer ones (%s)", c.snapshot, refusalWords(err, "ec2:DescribeSnapshots"))
	case err != nil:
		return c.refusal("ec2:DescribeSnapshots", err)
	case len(out.Snapshots) != 1:
		return doctor.Failure("publish again", "EC2 answered with %d snapshots for %s", len(out.Snapshots), c.snapshot)
	}
	snap := &out.Snapshots[0]
	c.found = snap
	if snap.State != types.SnapshotStateCompleted {
		return doctor.Failure("publish again (a publish commits a completed snapshot only)",
			"%s is `%s` (%s)", c.snapshot, snap.State, aws.ToString(snap.Progress))
	}
	return doctor.Fine("%s is completed, %d GiB", c.snapshot, aws.ToInt32(snap.VolumeSize))
}

// kmsKey names the key: no DryRun tells whether it may be used, and a volume whose key may not is
// accepted and then vanishes (CSI #3010). An account may encrypt every new volume (row 41).
func (c *Checks) kmsKey(ctx context.Context) doctor.Finding {
	for _, v := range c.mine {
		if v.Encrypted {
			return doctor.Fine("%s is encrypted with %s, which works", v.ID, v.KMSKeyID)
		}
	}
	if c.found != nil && aws.ToBool(c.found.Encrypted) {
		return mayUse(c.snapshot+" is encrypted", aws.ToString(c.found.KmsKeyId))
	}
	if f, ready := c.ready(); !ready {
		return f
	}
	if c.snapshot != "" && c.found == nil {
		return doctor.Warning("see ec2:DescribeSnapshots", "whether %s is encrypted is not known", c.snapshot)
	}
	byDefault, err := c.api.GetEbsEncryptionByDefault(ctx, &ec2.GetEbsEncryptionByDefaultInput{})
	if err != nil {
		return unknownKey("ec2:GetEbsEncryptionByDefault", err)
	}
	if !aws.ToBool(byDefault.EbsEncryptionByDefault) {
		return doctor.Fine("none is used: neither the snapshot nor the account asks for encryption")
	}
	key, err := c.api.GetEbsDefaultKmsKeyId(ctx, &ec2.GetEbsDefaultKmsKeyIdInput{})
	if err != nil {
		return unknownKey("ec2:GetEbsDefaultKmsKeyId", err)
	}
	if id := aws.ToString(key.KmsKeyId); id != "alias/aws/ebs" { // AWS's own: whoever may make volumes may use it
		return mayUse("this account encrypts every new volume", id)
	}
	return doctor.Fine("this account encrypts every new volume, with AWS's own key")
}

// mayUse is the finding about a key whose use cannot be tried.
func mayUse(what, key string) doctor.Finding {
	return doctor.Warning("let the key's policy and this role allow kms:CreateGrant, kms:Decrypt, kms:DescribeKey, "+
		"kms:GenerateDataKeyWithoutPlaintext and kms:ReEncrypt*", "%s, with %s, and whether this role may use that cannot be tried", what, key)
}

func unknownKey(action string, err error) doctor.Finding {
	if !volume.IsDenied(err) {
		return doctor.Warning("run the doctor again", "whether this account encrypts every new volume is not known (%s)", short(err))
	}
	return doctor.Warning("allow "+action+" (only the doctor uses it)",
		"whether this account encrypts every new volume is not known (%s)", refusalWords(err, action))
}

func (c *Checks) createVolume(ctx context.Context) doctor.Finding {
	if f, ready := c.ready(); !ready {
		return f
	}
	if c.snapshot == "" { // agent.json allows no blank volume
		return doctor.Warning("publish a release, and run the doctor again", "cannot be tried before there is a snapshot")
	}
	return c.dryRun("ec2:CreateVolume", volume.DryRuns{EC2: c.api}.Create(ctx, c.request()), true)
}

// some is the volume to try rights on, with the name of its attachment: this instance's own, or one
// that does not exist.
func (c *Checks) some() (id, name string, real bool) {
	id, name = volume.None, volume.DeviceNames(nil)[0]
	if len(c.mine) > 0 {
		id, real = c.mine[0].ID, true
		name = cmp.Or(c.mine[0].Attachment.Device, name)
	}
	return id, name, real
}

func (c *Checks) attachVolume(ctx context.Context) doctor.Finding {
	return c.onVolume("ec2:AttachVolume", func(id, _ string) error {
		return volume.DryRuns{EC2: c.api}.Attach(ctx, id, c.me.InstanceID, volume.DeviceNames(nil)[0])
	})
}

func (c *Checks) modifyInstance(ctx context.Context) doctor.Finding {
	return c.onVolume("ec2:ModifyInstanceAttribute",
		func(id, name string) error { return volume.DryRuns{EC2: c.api}.Protect(ctx, id, c.me.InstanceID, name) })
}

func (c *Checks) detachVolume(ctx context.Context) doctor.Finding {
	return c.onVolume("ec2:DetachVolume", func(id, _ string) error { return volume.DryRuns{EC2: c.api}.Detach(ctx, id, c.me.InstanceID) })
}

func (c *Checks) deleteVolume(ctx context.Context) doctor.Finding {
	return c.onVolume("ec2:DeleteVolume", func(id, _ string) error { return volume.DryRuns{EC2: c.api}.Delete(ctx, id) })
}

func (c *Checks) onVolume(action string, call func(id, name string) error) doctor.Finding {
	if f, ready := c.ready(); !ready {
		return f
	}
	id, name, real := c.some()
	return c.dryRun(action, call(id, name), real)
}

// ready: EC2 can be asked as this instance.
func (c *Checks) ready() (doctor.Finding, bool) {
	if c.api == nil || c.me == nil {
		return doctor.Warning("see the first line that fails", "not tried"), false
	}
	return doctor.Finding{}, true
}

// dryRun reads the answer to a DryRun. A policy that goes by the tags of a volume (as the one that
// we ship does) refuses to act on one that does not exist, so that a refusal tells little before
// there is a volume.
func (c *Checks) dryRun(action string, err error, real bool) doctor.Finding {
	switch {
	case volume.IsDryRun(err):
		return doctor.Fine("allowed")
	case err == nil:
		return doctor.Failure("is this EC2?", "EC2 carried out a call that had DryRun set")
	case volume.IsDenied(err) && !real:
		advice := "allow " + volume.DeniedAction(err, action) + " in the role of this instance"
		return doctor.Warning(advice+", unless it does so for volumes with the tag "+volume.TagInstance,
			"not allowed on a volume without tags; this instance has none of its own to try it on (%s)", refusalWords(err, action))
	case volume.IsNotFound(err) && !real:
		return doctor.Warning("run the doctor again when the instance has a release volume", "cannot be tried before there is a volume")
	}
	return c.refusal(action, err)
}

func (c *Checks) refusal(action string, err error) doctor.Finding {
	if volume.IsDenied(err) {
		return doctor.Failed(volume.Denied(err, action))
	}
	return doctor.Failure("look at the network's way to EC2 (route, security group, VPC endpoint)", "%s", short(err))
}

// refusalWords are EC2's words, without advice.
func refusalWords(err error, action string) string {
	words, _ := advice.Of(volume.Denied(err, action))
	return words
}

// clock asks EC2 for the time: each answer has it, also that to a DryRun.
func (c *Checks) clock(ctx context.Context) doctor.Finding {
	if f, ready := c.ready(); !ready {
		return f
	}
	_, err := c.api.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{DryRun: aws.Bool(true), MaxResults: aws.Int32(volume.PerPage)})
	if off := volume.ClockOff(err); off != 0 {
		return doctor.Warned(volume.ClockError(off))
	}
	return doctor.Fine("agrees with EC2's")
}

// deviceNames counts what is attached: DescribeVolumes tells it, which a boot may call anyway.
func (c *Checks) deviceNames(ctx context.Context) doctor.Finding {
	f, ready := c.ready()
	if !ready {
		return f
	}
	if c.denied {
		return doctor.Warning("see ec2:DescribeVolumes", "not tried")
	}
	var used []string
	in := &ec2.DescribeVolumesInput{
		MaxResults: aws.Int32(volume.PerPage),
		Filters:    []types.Filter{{Name: aws.String("attachment.instance-id"), Values: []string{c.me.InstanceID}}},
	}
	for pages := ec2.NewDescribeVolumesPaginator(c.api, in); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return c.refusal("ec2:DescribeVolumes", err)
		}
		for _, v := range page.Volumes {
			for _, a := range v.Attachments {
				used = append(used, aws.ToString(a.Device))
			}
		}
	}
	names := volume.DeviceNames(used)
	if len(names) == 0 {
		return doctor.Failure("detach volumes that are not used", "all names from /dev/xvdaa to /dev/xvddx are taken")
	}
	return doctor.Fine("%s is free; %d volumes are attached", names[0], len(used))
}

// short is an error without the SDK's wrappings, and without the advice, which the doctor gives
// itself.
func short(err error) string {
	var op *smithy.OperationError
	for errors.As(err, &op) {
		err = op.Err
	}
	text, _ := advice.Of(err)
	text = words.OneLine(errors.New(text))
	if r := []rune(text); len(r) > 300 {
		text = string(r[:300]) + "…"
	}
	return text
}
