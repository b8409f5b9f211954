package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"

	"ebs-release/internal/advice"
	"ebs-release/internal/config"
	"ebs-release/internal/mount"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/push"
	"ebs-release/internal/release"
	"ebs-release/internal/server"
	"ebs-release/internal/snapshot"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/sys/unix"
)

// A release volume with less left than this cannot take a release in, however little changed. What
// a release needs in the end is known only while it is taken in; running out of space there changes
// nothing either.
const (
	leastBytes  = 16 << 20
	leastInodes = 1000
)

// preflight is what P0 tries: everything that would otherwise fail half way. Nothing here changes
// anything.
type preflight struct {
	values  config.Values
	verb    string
	source  string // of a publish
	store   *pointer.Store
	volume  *releaseVolume
	signs   signing
	note    func(string) // told what does not stop a publish
	ec2     *ec2.Client
	volumes *volume.Volumes
	maker   *snapshot.Maker // gets its volume here
}

// Names of checks that others build on.
const (
	checkVolume = "release volume"
	checkTree   = "release tree"
	checkKey    = "ssh key"
	checkSigns  = "signing key"
)

func (c preflight) list() []publish.Check {
	checks := c.all()
	if follows(c.values) { // nobody logs in
		checks = slices.DeleteFunc(checks, func(check publish.Check) bool { return check.Name == checkKey })
	}
	return checks
}

func (c preflight) all() []publish.Check {
	if c.verb == verbConverge {
		return []publish.Check{{Name: "programs", Do: c.programs}, {Name: checkKey, Do: c.sshKey}, {Name: checkTree, Do: c.releaseTree},
			{Name: "store", Do: c.sameStore}, {Name: checkSigns, Do: c.signingKey}}
	}
	if isRolloutVerb(c.verb) {
		return []publish.Check{{Name: "programs", Do: c.programs}, {Name: checkKey, Do: c.sshKey}, {Name: checkSigns, Do: c.signingKey}}
	}
	if c.verb == verbSnapshot {
		return c.snapshotChecks()
	}
	return c.publishChecks()
}

func (c preflight) publishChecks() []publish.Check {
	checks := []publish.Check{{Name: "root", Do: c.root}}
	if c.verb == verbPublish {
		checks = append(checks, publish.Check{Name: "source", Do: c.sourceThere})
	}
	return append(checks, []publish.Check{
		{Name: "programs", Do: c.programs},
		{Name: checkKey, Do: c.sshKey},
		{Name: checkVolume, Do: c.releaseVolume},
		{Name: checkTree, Do: c.releaseTree},
		{Name: checkSigns, Do: c.signingKey},
		{Name: "disk space", Do: c.space},
		{Name: "freeze", Do: func(context.Context) error { return c.maker.Holder.Check() }},
		{Name: "volume", Do: c.serverVolume},
		{Name: "rights by DryRun", Do: c.dryRuns},
	}...)
}

// snapshotChecks are those without which no snapshot can be made, or named.
func (c preflight) snapshotChecks() []publish.Check {
	others := []string{"source", "programs", checkKey, "disk space"}
	return slices.DeleteFunc(c.publishChecks(), func(check publish.Check) bool { return slices.Contains(others, check.Name) })
}

// beforeSnapshot is for P6 of a converge.
func (c preflight) beforeSnapshot(ctx context.Context) error {
	return publish.TryAll(ctx, c.snapshotChecks())
}

func (c preflight) root(context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("freezing a file system needs root; run it with sudo")
	}
	return nil
}

// sourceThere looks at a directory. An rsync source (host:path, rsync://) is rsync's business.
func (c preflight) sourceThere(context.Context) error {
	if release.IsRemote(c.source) {
		return nil
	}
	info, err := os.Stat(c.source)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", c.source)
	}
	entries, err := os.ReadDir(c.source)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return fmt.Errorf("%s is empty", c.source)
	}
	return nil
}

func (c preflight) programs(context.Context) error {
	var needed []string
	if !follows(c.values) {
		needed = append(needed, "ssh")
	}
	if release.IsRemote(c.source) {
		needed = append(needed, "rsync")
	}
	for _, name := range needed {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%s is not installed: %w", name, err)
		}
	}
	return nil
}

// sshKey loads the key before any member is dialed: each of them would only say that it refuses.
func (c preflight) sshKey(ctx context.Context) error {
	key := c.values.Get("ssh-key")
	if key == "" {
		return nil // ssh's own: agent, ~/.ssh
	}
	err := push.CheckKey(ctx, key)
	switch {
	case !errors.Is(err, push.ErrNoKeygen):
		return err
	case c.verb == verbDoctor:
		return advice.Try(warn("%w", err), "install the package that has ssh-keygen (openssh-client, openssh)")
	}
	return nil
}

// releaseVolume finds out which EBS volume is mounted, and whether it can be written to.
func (c preflight) releaseVolume(ctx context.Context) error {
	point := c.values.Get("mount-point")
	mounted, err := mountedAt(point)
	if err != nil {
		return err
	}
	if why := mounted.ReadOnly(); why != "" {
		return fmt.Errorf("%s at %s is mounted read-only (%s); see dmesg for why, then `mount -o remount,rw %s`", mounted, point, why, point)
	}
	if c.maker.VolumeID, err = server.MountedVolume(mounted); err != nil {
		return err
	}
	return notFrozen(ctx, point, frozenTime)
}

// mountedAt is what is mounted at the release volume's mount point.
func mountedAt(point string) (*mount.Mounted, error) {
	_, statErr := os.Lstat(point)
	mounted, err := mount.Look(point)
	if errors.Is(statErr, os.ErrNotExist) || err == nil && mounted == nil {
		return nil, fmt.Errorf("nothing is mounted at %s; run `ebs-release init`, or mount the release volume", point)
	}
	return mounted, err
}

func (c preflight) releaseTree(context.Context) error {
	if _, err := with(c.volume, (*release.Volume).Releases); err != nil {
		return advice.Errorf("%w; run `ebs-release init`", err)
	}
	return nil
}

func (c preflight) space(context.Context) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(c.volume.point, &fs); err != nil {
		return fmt.Errorf("statfs %s: %w", c.volume.point, err)
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < leastBytes {
		return fmt.Errorf("%s has %d MiB left; make the volume larger, or keep fewer releases (--keep)", c.volume.point, free>>20)
	}
	if fs.Files > 0 && fs.Ffree < leastInodes {
		return fmt.Errorf("%s has %d inodes left; keep fewer releases (--keep)", c.volume.point, fs.Ffree)
	}
	return nil
}

// serverVolume makes sure that what is mounted is the release server's volume, not one that an
// agent made from a snapshot, and of this store.
func (c preflight) serverVolume(ctx context.Context) error {
	v, err := c.volumes.Describe(ctx, c.maker.VolumeID)
	if err != nil {
		return err
	}
	if role := v.Tags[volume.TagRole]; role != volume.RoleServer {
		return fmt.Errorf("%s has the tag %s=%q, want %s; is this the release server? `ebs-release init` sets the tag",
			v.ID, volume.TagRole, role, volume.RoleServer)
	}
	store, err := c.storeOf(ctx, v.Tags[volume.TagStore])
	c.maker.Store = cmp.Or(store, anyStore)
	return err
}

// dryRuns asks EC2 for each right that has not been used by then. What only reads is simply done.
func (c preflight) dryRuns(ctx context.Context) error {
	if err := c.maker.Check(ctx); err != nil {
		return err
	}
	_, err := c.ec2.DescribeSnapshots(ctx,
		&ec2.DescribeSnapshotsInput{DryRun: aws.Bool(true), OwnerIds: []string{"self"}, MaxResults: aws.Int32(volume.PerPage)})
	if err := allowed("ec2:DescribeSnapshots", err); err != nil {
		return err
	}
	_, err = c.ec2.CreateTags(ctx, &ec2.CreateTagsInput{
		DryRun: aws.Bool(true), Resources: []string{c.maker.VolumeID},
		Tags: []types.Tag{
			{Key: aws.String(volume.TagRole), Value: aws.String(volume.RoleServer)},
			{Key: aws.String(volume.TagStore), Value: aws.String(c.maker.Store)},
		},
	})
	return allowed("ec2:CreateTags", err)
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
