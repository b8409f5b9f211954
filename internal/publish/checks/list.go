package checks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"ebs-release/internal/advice"
	"ebs-release/internal/doctor"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/push"
	"ebs-release/internal/server"
	"ebs-release/internal/snapshot"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// Volume is the release volume of this server, opened when something is asked of it.
type Volume interface {
	Releases() ([]string, error)
	Current() (string, error)
	StoreID() (string, error)
}

// Checks is what P0 tries: everything that would otherwise fail half way.
type Checks struct {
	Source       string // of a publish
	MountPoint   string
	PointerStore string
	SSHKey       string // "": ssh's own
	Follows      bool   // nobody logs in to members

	Store   *pointer.Store
	Volume  Volume
	Signs   server.Signing
	EC2     *ec2.Client
	Volumes *volume.Volumes
	Maker   *snapshot.Maker // gets its volume and its store here

	reads    bool // the pointer is not written
	explains bool // what a publish goes through with is a warning
}

// Names of checks that others build on.
const (
	checkVolume = "release volume"
	checkTree   = "release tree"
	checkKey    = "ssh key"
	checkSigns  = "signing key"
)

// ForPublish are those of a publish.
func (c Checks) ForPublish() []publish.Check {
	all := c.ForRollback()
	return slices.Insert(all, 1, publish.Check{Name: "source", Do: func(context.Context) error { return Source(c.Source) }})
}

// ForRollback are those of what publishes and has no SOURCE.
func (c Checks) ForRollback() []publish.Check {
	return c.reached([]publish.Check{
		{Name: "root", Do: func(context.Context) error { return Root() }},
		{Name: "programs", Do: c.programs},
		{Name: checkKey, Do: c.CheckSSHKey},
		{Name: checkVolume, Do: c.releaseVolume},
		{Name: checkTree, Do: c.releaseTree},
		{Name: checkSigns, Do: c.signingKey},
		{Name: "disk space", Do: func(context.Context) error { return Space(c.MountPoint) }},
		{Name: "freeze", Do: func(context.Context) error { return c.Maker.Holder.Check() }},
		{Name: "volume", Do: c.serverVolume},
		{Name: "rights by DryRun", Do: c.dryRuns},
	})
}

// ForConverge are those of what brings members to the pointer as it is.
func (c Checks) ForConverge() []publish.Check {
	c.reads = true
	return c.reached([]publish.Check{
		{Name: "programs", Do: c.programs}, {Name: checkKey, Do: c.CheckSSHKey}, {Name: checkTree, Do: c.releaseTree},
		{Name: "store", Do: c.sameStore}, {Name: checkSigns, Do: c.signingKey},
	})
}

// ForRollout are those of what drives or ends a rollout: with the store and the key alone.
func (c Checks) ForRollout() []publish.Check {
	return c.reached([]publish.Check{
		{Name: "programs", Do: c.programs}, {Name: checkKey, Do: c.CheckSSHKey}, {Name: checkSigns, Do: c.signingKey},
	})
}

// ForSnapshot are those without which no snapshot can be made, or named.
func (c Checks) ForSnapshot() []publish.Check {
	others := []string{"programs", checkKey, "disk space"}
	return slices.DeleteFunc(c.ForRollback(), func(check publish.Check) bool { return slices.Contains(others, check.Name) })
}

// reached leaves out what only logging in to members needs.
func (c Checks) reached(all []publish.Check) []publish.Check {
	if !c.Follows {
		return all
	}
	return slices.DeleteFunc(all, func(check publish.Check) bool { return check.Name == checkKey })
}

func (c Checks) programs(context.Context) error { return Programs(!c.Follows, c.Source) }

// CheckSSHKey loads the key before any member is dialed: each of them would only say that it
// refuses.
func (c Checks) CheckSSHKey(ctx context.Context) error {
	key := c.SSHKey
	if key == "" {
		return nil // ssh's own: agent, ~/.ssh
	}
	err := push.CheckKey(ctx, key)
	switch {
	case !errors.Is(err, push.ErrNoKeygen):
		return err
	case c.explains:
		return advice.Try(doctor.Minorf("%w", err), "install the package that has ssh-keygen (openssh-client, openssh)")
	}
	return nil
}

// releaseVolume finds out which EBS volume is mounted, and whether it can be written to.
func (c Checks) releaseVolume(ctx context.Context) error {
	point := c.MountPoint
	mounted, err := Mounted(point)
	if err != nil {
		return err
	}
	if c.Maker.VolumeID, err = server.MountedVolume(mounted); err != nil {
		return err
	}
	return Writable(ctx, mounted, point)
}

func (c Checks) releaseTree(context.Context) error {
	if _, err := c.Volume.Releases(); err != nil {
		return advice.Try(err, "ebs-release init")
	}
	return nil
}

// Owner is which store the release volume is of; "": it has none yet.
func (c Checks) Owner(ctx context.Context) (string, error) {
	if err := c.releaseVolume(ctx); err != nil {
		return "", err
	}
	v, err := c.Volumes.Describe(ctx, c.Maker.VolumeID)
	if err != nil {
		return "", err
	}
	c.Maker.Store, err = c.StoreOf(ctx, v.Tags[volume.TagStore])
	return c.Maker.Store, err
}

// serverVolume makes sure that what is mounted is the release server's volume, not one that an
// agent made from a snapshot, and of this store.
func (c Checks) serverVolume(ctx context.Context) error {
	v, err := c.Volumes.Describe(ctx, c.Maker.VolumeID)
	if err != nil {
		return err
	}
	if err := OfServer(v); err != nil {
		return err
	}
	store, err := c.StoreOf(ctx, v.Tags[volume.TagStore])
	c.Maker.Store = cmp.Or(store, anyStore)
	return err
}

// dryRuns asks EC2 for each right that has not been used by then, side by side. What only reads is
// simply done.
func (c Checks) dryRuns(ctx context.Context) error {
	var toMake error
	var asked sync.WaitGroup
	asked.Go(func() { toMake = c.Maker.Check(ctx) })
	others := Rights(ctx, c.EC2, c.Maker.VolumeID, c.Maker.Store)
	asked.Wait()
	return cmp.Or(toMake, others)
}

// signingKey is P0's: what is written has to be signed, when who reads it wants that.
func (c Checks) signingKey(ctx context.Context) error {
	known := len(c.Signs.Trusted) > 0
	switch {
	case c.Signs.Err != nil && known && c.reads:
		return nil
	case c.Signs.Err != nil:
		return c.Signs.Err
	}
	found, err := c.Store.Look(ctx)
	switch {
	case err != nil:
		return err
	case known:
		err := c.Signs.Newest(found.Pointer)
		if err == nil && c.explains && len(c.Signs.Signing) > 1 {
			err = advice.Try(doctor.Minorf("the key is being rotated: %s sign", server.IDs(c.Signs.Trusted)),
				"ebs-release key rotate --finish, which says who has only the old one")
		}
		return err
	case found.Schema == pointer.Signed:
		return advice.Try(fmt.Errorf("the pointer is signed by key %s, and the release volume has no keys: it is a copy from before that",
			strings.Join(found.SignedBy(), ", ")),
			"put that key file in place (signing-key), then ebs-release init")
	case c.reads:
		return nil
	}
	return advice.Try(errors.New("the release volume has no keys: nobody can tell who wrote the pointer, and members believe no packs"),
		server.TryKeyInit)
}

// anyStore stands for the id of a store that has none yet, where EC2 is only asked whether it would
// allow something.
const anyStore = "0000000000000000"

// ownership looks at the pointer store and at the volume, whose tag the caller has seen.
func (c Checks) ownership(ctx context.Context, tag string) (o server.Ownership, err error) {
	o = server.Ownership{Directory: c.PointerStore, VolumeID: c.Maker.VolumeID, Tag: tag}
	if o.Own, err = c.Store.ID(ctx); err != nil {
		return o, err
	}
	o.File, err = c.Volume.StoreID()
	return o, err
}

// StoreOf says which store the volume is of, or refuses it. It changes nothing.
func (c Checks) StoreOf(ctx context.Context, tag string) (string, error) {
	o, err := c.ownership(ctx, tag)
	if err != nil {
		return "", err
	}
	if o.File == "" && o.Tag == "" { // once in the life of a volume
		old, err := c.Maker.List(ctx)
		if err != nil {
			return "", err
		}
		for _, s := range old {
			o.Snapshots = append(o.Snapshots, s.Store)
		}
	}
	return o.Decide()
}

// sameStore is StoreOf without EC2.
func (c Checks) sameStore(ctx context.Context) error {
	o, err := c.ownership(ctx, "")
	if err == nil {
		_, err = o.Decide()
	}
	return err
}
