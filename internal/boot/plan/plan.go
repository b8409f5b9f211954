// Package plan is a boot that changes nothing, for `up --dry-run`: the very boot, over parts that
// look as the real ones do, and instead of changing the world say what they would do.
package plan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"ebs-release/internal/boot"
	"ebs-release/internal/boot/account"
	"ebs-release/internal/boot/disks"
	"ebs-release/internal/boot/tree"
	"ebs-release/internal/filesystem"
	"ebs-release/internal/volume"
)

// Limit is for a plan: a person waits for it, and what does not answer by then is the answer.
const Limit = 20 * time.Second

// Step is what a stage would do.
type Step struct {
	Stage string `json:"stage"`
	Does  string `json:"does"`
}

// Of is the plan of a boot, as far as it came before err.
func Of(ctx context.Context, a *account.Account, m *disks.Machine, pointers boot.Pointers, older bool) (steps []Step, err error) {
	d := &dry{account: a, machine: m, pointers: pointers}
	log := slog.New(slog.DiscardHandler) // it would tell of things that are not done
	_, err = boot.Run(ctx, boot.Parts{Instance: d, Pointers: d, Volumes: d, Disks: d, Mounts: d, Gate: d, Older: older}, d, log)
	return d.plan(), err
}

// dry is all parts of a boot that changes nothing. A stage tells by say what it would do.
type dry struct {
	account  *account.Account
	machine  *disks.Machine
	pointers boot.Pointers
	me       boot.Identity

	mu     sync.Mutex
	stages []string // in the order in which they started
	steps  []Step
}

func (d *dry) say(stage, format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.steps = append(d.steps, Step{stage, fmt.Sprintf(format, args...)})
}

// plan is what was said, in the order of the stages.
func (d *dry) plan() []Step {
	slices.SortStableFunc(d.steps, func(a, b Step) int {
		return slices.Index(d.stages, a.Stage) - slices.Index(d.stages, b.Stage)
	})
	return d.steps
}

// dryRun is nil when EC2 would allow it; the rest of the plan needs no answer to be told. A right
// on a volume that is not there yet cannot be tried: a policy may go by its tags.
func (d *dry) dryRun(stage, action string, err error, real bool, format string, args ...any) error {
	does := fmt.Sprintf(format, args...)
	switch {
	case volume.IsDryRun(err):
		d.say(stage, "%s: allowed", does)
	case !real && (volume.IsDenied(err) || volume.IsNotFound(err)):
		d.say(stage, "%s: whether it may cannot be tried before the volume exists", does)
	case volume.IsDenied(err):
		d.say(stage, "%s: not allowed", does)
		return volume.Denied(err, "ec2:"+action)
	case err == nil:
		return fmt.Errorf("%s: EC2 carried out a call that had DryRun set", action)
	default:
		return fmt.Errorf("%s: %w", action, err)
	}
	return nil
}

func (d *dry) Identify(ctx context.Context) (boot.Identity, error) {
	var err error
	if d.me, err = d.account.Identify(ctx); err == nil {
		d.say(boot.StageIdentify, "this is %s, a %s in %s", d.me.InstanceID, d.me.InstanceType, d.me.Zone)
	}
	return d.me, err
}

// Warmed says so, and the plan goes on: a person asks what would be served.
func (d *dry) Warmed(ctx context.Context) (bool, error) {
	warmed, err := d.account.Warmed(ctx)
	switch {
	case err != nil:
	case warmed:
		d.say(boot.StageMayServe, "not now: this instance is in a warm pool, and waits until the group takes it into service")
	default:
		d.say(boot.StageMayServe, "yes: this instance is in no warm pool")
	}
	return false, err
}

func (d *dry) HostKey(ctx context.Context) (string, error) { return d.account.HostKey(ctx) }

func (d *dry) Fetch(ctx context.Context) (boot.Pointer, error) {
	got, err := d.pointers.Fetch(ctx)
	if err == nil && !slices.Contains(d.stages, boot.StageReread) {
		d.say(boot.StageResolve, "the pointer says generation %d, release %s", got.Generation, got.Release)
	}
	return got, err
}

func (d *dry) Mine(ctx context.Context, me boot.Identity) ([]boot.Volume, error) {
	mine, err := d.account.Mine(ctx, me)
	if err == nil && len(mine) == 0 {
		d.say(boot.StageAdopt, "this instance has no release volume")
	}
	for _, v := range mine {
		d.say(boot.StageAdopt, "%s was made for this instance, from %s; attached: %v", v.ID, v.SnapshotID, v.Attached)
	}
	return mine, err
}

func (d *dry) Look(_ context.Context, mine []boot.Volume) (*boot.Mounted, error) {
	if _, err := os.Lstat(d.machine.Point); errors.Is(err, fs.ErrNotExist) {
		d.say(boot.StageAdopt, "makes the directory %s", d.machine.Point)
		return nil, nil
	}
	mounted, err := d.machine.Mounted(mine)
	if mounted != nil {
		mounted.Tree = looked{d.machine}
		d.say(boot.StageAdopt, "mounted at %s", mounted.What)
	}
	return mounted, err
}

func (d *dry) Create(ctx context.Context, me boot.Identity, want boot.Wanted) (boot.Volume, error) {
	r := d.account.Request(me, want)
	err := d.dryRun(boot.StageCreate, "CreateVolume", d.account.DryRuns().Create(ctx, r), true,
		"makes a %s volume from %s in %s", r.Type, want.SnapshotID, me.Zone)
	return boot.Volume{ID: volume.None, SnapshotID: want.SnapshotID}, err
}

func (d *dry) Attach(ctx context.Context, me boot.Identity, v boot.Volume, skip []string) (boot.Volume, error) {
	name := volume.DeviceNames(skip)[0]
	err := d.account.DryRuns().Attach(ctx, v.ID, me.InstanceID, name)
	v.Attached, v.Device = true, name
	return v, d.dryRun(boot.StageAttach, "AttachVolume", err, v.ID != volume.None,
		"attaches it as %s, or under the next name that is free", name)
}

func (d *dry) Protect(ctx context.Context, me boot.Identity, v boot.Volume) error {
	err := d.account.DryRuns().Protect(ctx, v.ID, me.InstanceID, v.Device)
	return d.dryRun(boot.StageProtect, "ModifyInstanceAttribute", err, v.ID != volume.None, "has EC2 delete it with the instance")
}

func (d *dry) Remove(_ context.Context, _ boot.Identity, v boot.Volume) error {
	if v.ID != volume.None { // the one that does not exist is let go at an end that fails
		d.say(boot.StageAdopt, "detaches and deletes %s", v.ID)
	}
	return nil
}

func (d *dry) Leave(context.Context, boot.Identity, boot.Volume) error { return nil }

func (d *dry) Report(ctx context.Context, v boot.Volume, r boot.Report) error {
	if !r.Ready {
		return nil // after a failure
	}
	if d.account.InS3() {
		d.say(boot.StageReport, "writes to %s: generation %d, ready; whether it may cannot be tried", d.machine.Source.Pointer, r.Generation)
		return nil
	}
	if v.Brought {
		err := d.account.DryRuns().Tag(ctx, d.me.InstanceID)
		return d.dryRun(boot.StageReport, "CreateTags", err, true, "tags this instance: generation %d, ready", r.Generation)
	}
	err := d.account.DryRuns().Tag(ctx, v.ID)
	return d.dryRun(boot.StageReport, "CreateTags", err, v.ID != volume.None, "tags it: generation %d, ready", r.Generation)
}

func (d *dry) Newest(ctx context.Context, store string) (generation int64, id string, err error) {
	generation, id, err = d.account.Newest(ctx, store)
	if err == nil {
		d.say(boot.StageNewer, "the newest snapshot of the store is of generation %d", generation)
	}
	return generation, id, err
}

// Find does not wait for the disk of a volume that is not there.
func (d *dry) Find(ctx context.Context, v boot.Volume) (boot.Disk, error) {
	if v.ID == volume.None {
		d.say(boot.StageFind, "waits for the disk with its serial number")
		return boot.Disk{Path: "the disk"}, nil
	}
	found, err := d.machine.Finder.Find(ctx, v.ID, v.Device)
	if err == nil {
		d.say(boot.StageFind, "%s is %s", v.ID, found.Path)
	}
	return boot.Disk{Path: found.Path}, err
}

// Check reads the superblock; the check that it may ask for writes.
func (d *dry) Check(_ context.Context, disk boot.Disk) (boot.Disk, error) {
	if disk.Path == "the disk" {
		d.say(boot.StageCheck, "reads its superblock, and runs e2fsck -p if that asks for it")
		disk.Kind = "unknown"
		return disk, nil
	}
	info, err := filesystem.ProbeDevice(disk.Path)
	if err != nil {
		return disk, err
	}
	disk.Kind = info.KernelName()
	does := "no check is needed"
	if info.NeedsCheck != "" {
		does = "runs e2fsck -p, because " + info.NeedsCheck
	}
	d.say(boot.StageCheck, "%s on %s: %s", disk.Kind, disk.Path, does)
	return disk, nil
}

func (d *dry) Here(ctx context.Context, v boot.Volume) (bool, error) { return d.machine.Here(ctx, v) }

// Brought looks as a boot does: it writes nothing.
func (d *dry) Brought(ctx context.Context, want boot.Wanted) ([]boot.Found, error) {
	found, err := d.machine.Brought(ctx, want)
	for _, f := range found {
		if f.Made {
			continue
		}
		does := fmt.Sprintf("%s came with this instance, and has seen generation %d", f.ID, f.Generation)
		if f.Unfit != nil {
			does = fmt.Sprintf("%s came with this instance, and is left alone: %v", f.ID, f.Unfit)
		}
		d.say(boot.StageAdopt, "%s", does)
	}
	return found, err
}

func (d *dry) Unused(context.Context, boot.Volume) error { return nil }

// Prepare does not mount: that writes to the disk (the journal).
func (d *dry) Prepare(context.Context, boot.Volume, boot.Disk) (boot.Prepared, error) {
	d.say(boot.StageMount, "mounts it where nobody sees it")
	return unseen{d}, nil
}

func (d *dry) Unmount(context.Context) error {
	d.say(boot.StageAdopt, "unmounts %s", d.machine.Point)
	return nil
}

func (d *dry) Visible(context.Context, boot.Volume, boot.Disk) error { return nil }

// Open is of boot.Gate.
func (d *dry) Open(_ context.Context, f boot.Facts) error {
	d.say(boot.StageReady, "says ready: generation %d, release %s at %s", f.Generation, f.Release, d.machine.Point)
	return nil
}

// Started is of boot.Progress.
func (d *dry) Started(stage string, _ boot.Facts) {
	if !slices.Contains(d.stages, stage) {
		d.stages = append(d.stages, stage)
	}
	if stage == boot.StageReread {
		d.say(stage, "reads the pointer again, and goes back to catch up if it moved")
	}
}

// Ended is of boot.Progress.
func (d *dry) Ended(stage string, _ time.Duration, skipped bool, _ error) {
	if skipped {
		d.say(stage, "nothing to do")
	}
}

// looked is a mount point whose release volume is only looked at: no fence is raised.
type looked struct{ m *disks.Machine }

func (l looked) Check(_ context.Context, want boot.Wanted) error {
	v, err := tree.Open(l.m.Point, l.m.Source.Trusted)
	if err != nil {
		return err
	}
	defer func() { _ = v.Close() }()
	return v.Look(want)
}

func (l looked) InReach(ctx context.Context, want boot.Wanted) error {
	v, err := tree.Open(l.m.Point, l.m.Source.Trusted)
	if err != nil {
		return err
	}
	defer func() { _ = v.Close() }()
	return v.InReach(ctx, want, l.m.Source.Packs(l.m.Log))
}

func (l looked) Holding(context.Context) (generation int64, release string, done bool) {
	v, err := tree.Open(l.m.Point, nil)
	if err != nil {
		return 0, "", true
	}
	defer func() { _ = v.Close() }()
	return v.Holding()
}

// unseen is what the boot would have mounted.
type unseen struct{ d *dry }

func (u unseen) Check(_ context.Context, want boot.Wanted) error {
	u.d.say(boot.StageVerify, "compares what is on it with the pointer: generation %d, release %s", want.Generation, want.Release)
	return nil
}

func (u unseen) Holding(context.Context) (generation int64, release string, done bool) {
	return 0, "", true
}

func (u unseen) CatchUp(context.Context, boot.Wanted) error {
	u.d.say(boot.StageCatchUp, "catches up by packs if it holds another release, where the pointer knows a way")
	return nil
}

func (u unseen) Place(context.Context) error {
	u.d.say(boot.StageReady, "moves the mount to %s", u.d.machine.Point)
	return nil
}

func (u unseen) Close(context.Context) error { return nil }
