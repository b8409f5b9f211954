package main

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"ebs-release/internal/advice"
	"ebs-release/internal/config"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/publish/checks"
	"ebs-release/internal/push"
	"ebs-release/internal/release"
	"ebs-release/internal/server"
	"ebs-release/internal/snapshot"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// p0Checks is what P0 tries: everything that would otherwise fail half way. Nothing here changes
// anything.
type p0Checks struct {
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

func (c p0Checks) list() []publish.Check {
	all := c.all()
	if follows(c.values) { // nobody logs in
		all = slices.DeleteFunc(all, func(check publish.Check) bool { return check.Name == checkKey })
	}
	return all
}

func (c p0Checks) all() []publish.Check {
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

func (c p0Checks) publishChecks() []publish.Check {
	all := []publish.Check{{Name: "root", Do: c.root}}
	if c.verb == verbPublish {
		all = append(all, publish.Check{Name: "source", Do: c.sourceThere})
	}
	return append(all, []publish.Check{
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
func (c p0Checks) snapshotChecks() []publish.Check {
	others := []string{"source", "programs", checkKey, "disk space"}
	return slices.DeleteFunc(c.publishChecks(), func(check publish.Check) bool { return slices.Contains(others, check.Name) })
}

// beforeSnapshot is for P6 of a converge.
func (c p0Checks) beforeSnapshot(ctx context.Context) error {
	return publish.TryAll(ctx, c.snapshotChecks())
}

func (c p0Checks) root(context.Context) error { return checks.Root() }

func (c p0Checks) sourceThere(context.Context) error { return checks.Source(c.source) }

func (c p0Checks) programs(context.Context) error {
	return checks.Programs(!follows(c.values), c.source)
}

// sshKey loads the key before any member is dialed: each of them would only say that it refuses.
func (c p0Checks) sshKey(ctx context.Context) error {
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
func (c p0Checks) releaseVolume(ctx context.Context) error {
	point := c.values.Get("mount-point")
	mounted, err := checks.Mounted(point)
	if err != nil {
		return err
	}
	if c.maker.VolumeID, err = server.MountedVolume(mounted); err != nil {
		return err
	}
	return checks.Writable(ctx, mounted, point)
}

func (c p0Checks) releaseTree(context.Context) error {
	if _, err := with(c.volume, (*release.Volume).Releases); err != nil {
		return advice.Try(err, "ebs-release init")
	}
	return nil
}

func (c p0Checks) space(context.Context) error { return checks.Space(c.volume.point) }

// owner is which store the release volume is of; "": it has none yet.
func (c p0Checks) owner(ctx context.Context) (string, error) {
	if err := c.releaseVolume(ctx); err != nil {
		return "", err
	}
	v, err := c.volumes.Describe(ctx, c.maker.VolumeID)
	if err != nil {
		return "", err
	}
	c.maker.Store, err = c.storeOf(ctx, v.Tags[volume.TagStore])
	return c.maker.Store, err
}

// serverVolume makes sure that what is mounted is the release server's volume, not one that an
// agent made from a snapshot, and of this store.
func (c p0Checks) serverVolume(ctx context.Context) error {
	v, err := c.volumes.Describe(ctx, c.maker.VolumeID)
	if err != nil {
		return err
	}
	if err := checks.OfServer(v); err != nil {
		return err
	}
	store, err := c.storeOf(ctx, v.Tags[volume.TagStore])
	c.maker.Store = cmp.Or(store, anyStore)
	return err
}

// dryRuns asks EC2 for each right that has not been used by then, side by side. What only reads is
// simply done.
func (c p0Checks) dryRuns(ctx context.Context) error {
	var toMake error
	var asked sync.WaitGroup
	asked.Go(func() { toMake = c.maker.Check(ctx) })
	others := checks.Rights(ctx, c.ec2, c.maker.VolumeID, c.maker.Store)
	asked.Wait()
	return cmp.Or(toMake, others)
}
