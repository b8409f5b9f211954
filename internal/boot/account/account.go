// Package account is what EC2 and its metadata service say to a boot, and what is asked of them:
// who this is, whether it is in a warm pool, its volumes, and where it reports (Account:
// boot.Instance and boot.Volumes). What is reported after the boot is Served's.
package account

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"strconv"

	"ebs-release/internal/boot"
	"ebs-release/internal/boot/tree"
	"ebs-release/internal/instance"
	"ebs-release/internal/notes"
	"ebs-release/internal/pointer"
	"ebs-release/internal/snapshot"
	"ebs-release/internal/status"
	"ebs-release/internal/trouble"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Settings are those of a boot, as far as EC2 has to do with them.
type Settings struct {
	Pointer string         // its URL: in S3 the store takes reports, too
	Volume  volume.Request // the release volume, but for which instance and of which snapshot
	RunDir  status.Dir     // what boot, follow and warm have left there goes into reports
}

// Account is boot.Instance and boot.Volumes.
type Account struct {
	settings Settings
	log      *slog.Logger
	load     func(context.Context, *slog.Logger) (aws.Config, instance.Identity, error) // instance.Load
	api      *ec2.Client                                                                // from Identify on: the client needs a region
	volumes  *volume.Volumes                                                            // over api
	cfg      aws.Config                                                                 // the same
	me       instance.Identity
	opening  chan *inStore // from Identify on, of a store in S3
	reports  *inStore      // from the first report to a store in S3 on

	notes   notes.Dir
	seen    map[string]volume.Volume // what EC2 said of a volume, by id
	removed []string                 // ids
}

// New returns one that asks nobody before Identify.
func New(s Settings, log *slog.Logger) *Account {
	return &Account{settings: s, log: log, load: instance.Load, notes: notes.Folder, seen: map[string]volume.Volume{}}
}

// Identify implements boot.Instance. All else needs it first.
func (a *Account) Identify(ctx context.Context) (boot.Identity, error) {
	cfg, me, err := a.load(ctx, a.log)
	if err != nil {
		return boot.Identity{}, err
	}
	a.cfg, a.me, a.api = cfg, me, volume.NewEC2(cfg)
	a.volumes = volume.New(a.api, volume.DefaultTiming(), a.log)
	a.openAhead(ctx)
	a.log.Info("this instance", "instance", me.InstanceID, "zone", me.AvailabilityZone, "account", me.AccountID)
	return boot.Identity{InstanceID: me.InstanceID, InstanceType: me.InstanceType, Zone: me.AvailabilityZone, Region: me.Region}, nil
}

// HostKey implements boot.Instance.
func (a *Account) HostKey(context.Context) (string, error) { return instance.HostKey("/etc/ssh") }

// Warmed implements boot.Instance.
func (a *Account) Warmed(ctx context.Context) (bool, error) {
	return instance.InWarmPool(ctx, instance.NewClient(a.cfg), a.log)
}

func (a *Account) owner(me boot.Identity) volume.Owner {
	o := a.settings.Volume.Owner
	o.InstanceID, o.InstanceType, o.Zone = me.InstanceID, me.InstanceType, me.Zone
	return o
}

// Mine implements boot.Volumes.
func (a *Account) Mine(ctx context.Context, me boot.Identity) ([]boot.Volume, error) {
	found, err := a.volumes.Mine(ctx, a.owner(me))
	if err != nil {
		return nil, a.means(err)
	}
	var mine []boot.Volume
	for _, v := range found {
		if at := v.Attachment.InstanceID; at != "" && at != me.InstanceID {
			a.log.Warn("a volume with this instance's tags is attached to another one: left alone", "volume", v.ID, "attached_to", at)
			continue
		}
		if v.Tags[volume.TagState] == volume.StateLeft { // a client token that leads to it is passed over
			a.removed = append(a.removed, v.ID)
		}
		mine = append(mine, a.bootVolume(v))
	}
	return mine, nil
}

// Request is what Create asks for.
func (a *Account) Request(me boot.Identity, want boot.Wanted) volume.Request {
	tags := map[string]string{volume.TagGeneration: strconv.FormatInt(want.Generation, 10), volume.TagState: volume.StateBooting}
	if want.Release != "" {
		tags[volume.TagRelease] = want.Release
	}
	if want.Store != "" {
		tags[volume.TagStore] = want.Store
	}
	r := a.settings.Volume
	r.Owner, r.SnapshotID, r.Tags, r.Not = a.owner(me), want.SnapshotID, tags, a.removed
	return r
}

// DryRuns are the calls of a boot, with which EC2 does nothing.
func (a *Account) DryRuns() volume.DryRuns { return volume.DryRuns{EC2: a.api} }

// Create implements boot.Volumes.
func (a *Account) Create(ctx context.Context, me boot.Identity, want boot.Wanted) (boot.Volume, error) {
	if err := a.notes.Keep(notes.Made, me.InstanceID); err != nil { // a root that is read only: it boots all the same
		a.log.Warn("cannot note that this instance makes a volume of its own: "+
			"should this boot be cut off, the next one may take it for one that came with the launch", "error", err)
	}
	made, err := a.volumes.Create(ctx, a.Request(me, want))
	if errors.Is(err, volume.ErrSnapshot) {
		err = tree.Means(err, boot.ErrSnapshot)
	}
	return a.bootVolume(made), a.means(err)
}

// Attach implements boot.Volumes.
func (a *Account) Attach(ctx context.Context, me boot.Identity, v boot.Volume, skip []string) (boot.Volume, error) {
	attached, err := a.volumes.Attach(ctx, a.seen[v.ID], a.owner(me), skip)
	if errors.Is(err, volume.ErrFailed) {
		err = tree.Means(err, boot.ErrVolume)
	}
	if err != nil {
		return v, a.means(err)
	}
	v.Attached, v.Device, v.Protected = true, attached.Attachment.Device, attached.Attachment.DeleteOnTermination
	return v, nil
}

// Protect implements boot.Volumes.
func (a *Account) Protect(ctx context.Context, me boot.Identity, v boot.Volume) error {
	return a.means(a.volumes.Protect(ctx, volume.Volume{ID: v.ID, Attachment: volume.Attachment{InstanceID: me.InstanceID, Device: v.Device}}))
}

// Remove implements boot.Volumes.
func (a *Account) Remove(ctx context.Context, me boot.Identity, v boot.Volume) error {
	err := a.volumes.Remove(ctx, a.seen[v.ID], me.InstanceID)
	if err == nil {
		a.removed = append(a.removed, v.ID)
	}
	return err
}

// Leave tags the volume, and has EC2 delete it with the instance, if it is attached. The tag first:
// a volume that is being detached can keep the other call busy until ctx ends.
func (a *Account) Leave(ctx context.Context, me boot.Identity, v boot.Volume) error {
	a.removed = append(a.removed, v.ID)
	err := a.volumes.Tag(ctx, v.ID, map[string]string{volume.TagState: volume.StateLeft})
	if v.Attached && !v.Protected {
		err = errors.Join(err, a.Protect(ctx, me, v))
	}
	return err
}

// Report writes to the store where that is in S3, but for what it says of a volume that is left
// behind: that is for the next boot here, which goes by tags. A volume that EC2 brought is tagged
// by nobody: its instance is.
func (a *Account) Report(ctx context.Context, v boot.Volume, r boot.Report) error {
	inS3 := a.InS3()
	if inS3 && (r.Ready || v.Brought) {
		return a.means(a.reportToStore(ctx, v, r, trouble.Trouble{}))
	}
	tags := reportTags(r)
	if v.Brought || r.Above > r.Generation {
		err := a.tagInstance(ctx, v, tags)
		if v.Brought {
			return a.means(err)
		}
		if err != nil {
			a.log.Warn("what this instance has reported of a volume before goes on counting", "up_to_generation", r.Above, "error", err)
		}
	}
	return a.means(a.volumes.Tag(ctx, v.ID, tags))
}

// tagInstance writes a report on this instance, with the volume that it is about: it counts for as
// long as that is attached.
func (a *Account) tagInstance(ctx context.Context, v boot.Volume, tags map[string]string) error {
	all := map[string]string{volume.TagVolume: v.ID}
	if v.Store != "" {
		all[volume.TagStore] = v.Store
	}
	maps.Copy(all, tags)
	err := a.volumes.Tag(ctx, a.me.InstanceID, all)
	if volume.IsDenied(err) || volume.IsTagLimit(err) {
		err = tree.Means(err, boot.ErrDenied)
	}
	return err
}

func reportTags(r boot.Report) map[string]string {
	tags := map[string]string{volume.TagGeneration: strconv.FormatInt(r.Generation, 10), volume.TagState: volume.StateBooting}
	if r.Ready {
		tags[volume.TagState] = volume.StateReady
	}
	if r.Ready && r.Pending {
		tags[volume.TagState] = volume.StateHookFailed
	}
	if r.Release != "" {
		tags[volume.TagRelease] = r.Release
	}
	if r.HostKey != "" {
		tags[volume.TagHostKey] = r.HostKey
	}
	return tags
}

// InS3 says whether reports are objects of the store; else they are tags.
func (a *Account) InS3() bool { return pointer.InS3(a.settings.Pointer) }

// means says of an error that AWS refused calls for a request limit, where it did.
func (a *Account) means(err error) error {
	if err != nil && (volume.IsThrottled(err) || a.volumes.Crowded()) {
		return tree.Means(err, boot.ErrThrottled)
	}
	return err
}

// Newest implements boot.Volumes.
func (a *Account) Newest(ctx context.Context, store string) (generation int64, id string, err error) {
	newest, err := snapshot.NewestCommitted(ctx, a.api, store)
	return newest.Generation, newest.ID, err
}

func (a *Account) bootVolume(v volume.Volume) boot.Volume {
	a.seen[v.ID] = v
	attaching := v.Attachment.State == types.VolumeAttachmentStateAttaching || v.Attachment.State == types.VolumeAttachmentStateAttached
	elsewhere := v.Attachment.InstanceID != "" && !attaching
	generation, _ := volume.ParseGeneration(v.Tags[volume.TagGeneration]) // a hint: an invalid one is 0
	return boot.Volume{
		ID: v.ID, SnapshotID: v.SnapshotID, Attached: attaching, Device: v.Attachment.Device,
		Protected: attaching && v.Attachment.DeleteOnTermination,
		Leaving:   v.State == types.VolumeStateError || elsewhere || v.Tags[volume.TagState] == volume.StateLeft,
		Store:     v.Tags[volume.TagStore],
		Reported: boot.Report{
			Ready: volume.Serves(v.Tags[volume.TagState]), Pending: v.Tags[volume.TagState] == volume.StateHookFailed,
			Generation: generation, Release: v.Tags[volume.TagRelease], HostKey: v.Tags[volume.TagHostKey],
		},
	}
}
