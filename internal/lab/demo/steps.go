package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"

	"golang.org/x/sync/errgroup"
)

// scaleTo changes the size of the group and waits until all members are in service and booted on
// generation.
func (d *demo) scaleTo(ctx context.Context, n int32, generation int64) error {
	if err := d.lab.Account.SetDesired(group, n); err != nil {
		return err
	}
	hosts, err := d.lab.AllBooted(ctx, group, int(n))
	if err != nil {
		return err
	}
	for _, h := range hosts {
		s, err := statusOf(ctx, h)
		if err != nil {
			return err
		}
		if s.Generation != generation || s.State != "ready" {
			return fmt.Errorf("%s is %s on generation %d, want ready on %d", h.ID, s.State, s.Generation, generation)
		}
		started, err := h.ReadFile(ctx, "/run/app.started")
		if err != nil {
			return err
		}
		fmt.Fprintf(d.out,
			"        %s %s: generation %d from %s, its application started on %s", h.ID, h.Address, s.Generation, s.VolumeID, started)
	}
	return nil
}

// publishWhileGrowing publishes release two and scales out before it is committed: at least one
// instance launches on the old pointer. The members have the release before its snapshot.
func (d *demo) publishWhileGrowing(ctx context.Context) error {
	began := time.Now()
	published := make(chan error, 1)
	go func() { published <- d.operator(ctx, "ebs-release", "publish", sourceTwo, "--message", "release two") }()
	d.say("the pointer still says generation 1: scale %s to %d", group, grown)
	scaled := d.lab.Account.SetDesired(group, grown)
	committed, err := d.waitCommit(ctx, published)
	if err != nil {
		return err
	}
	if err := errors.Join(<-published, scaled); err != nil {
		return err
	}
	if _, err := d.lab.AllBooted(ctx, group, grown); err != nil {
		return err
	}
	between := 0
	for _, i := range d.lab.Account.Instances() {
		if i.Group == group && i.Launched.After(began) && i.Launched.Before(committed) {
			between++
		}
	}
	d.say("%d instances were launched between the start of the publish and its commit", between)
	if between == 0 {
		return errors.New("no instance was launched before the commit: the demo did not show what it is for")
	}
	return nil
}

// waitCommit waits until the pointer moves, and returns when it did.
func (d *demo) waitCommit(ctx context.Context, published <-chan error) (time.Time, error) {
	file := d.server.Path(lab.PointerStore + "/release.json")
	before, err := os.Stat(file)
	if err != nil {
		return time.Time{}, err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if now, err := os.Stat(file); err == nil && now.ModTime().After(before.ModTime()) {
			d.say("the pointer says generation 2; snapshots completed: %d", d.completed())
			return now.ModTime(), nil
		}
		select {
		case err := <-published:
			return time.Time{}, fmt.Errorf("the publish ended without a commit: %w", err)
		case <-ctx.Done():
			<-published // it ends with ctx, too
			return time.Time{}, fmt.Errorf("wait for the commit: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// completed counts the snapshots that can be used.
func (d *demo) completed() (n int) {
	for _, s := range d.lab.Account.Snapshots() {
		if s.State == "completed" {
			n++
		}
	}
	return n
}

// inspect compares every member with the source, and with what it says of itself. It counts those
// that are right, and those on another generation.
func (d *demo) inspect(ctx context.Context, generation int64) (good, stale int, err error) {
	d.say("compare /release/current of every member with the source: content, mode, link")
	listed, err := d.status(ctx)
	if err != nil {
		return 0, 0, err
	}
	findings := make([]finding, len(listed))
	looks, ctx := errgroup.WithContext(ctx)
	for i, m := range listed {
		looks.Go(func() (err error) {
			findings[i], err = d.look(ctx, m.InstanceID)
			return err
		})
	}
	if err := looks.Wait(); err != nil {
		return 0, 0, err
	}
	for i, f := range findings {
		switch listed := listed[i]; {
		case listed.Generation != generation || f.said.Generation != generation:
			stale++
			fmt.Fprintf(d.out,
				"        %s: generation %d by its volume's tag, %d by its own word\n", listed.InstanceID, listed.Generation, f.said.Generation)
		case len(f.differences) > 0:
			fmt.Fprintf(d.out, "        %s: %d of %d entries differ: %q\n",
				listed.InstanceID, len(f.differences), f.entries, f.differences[:min(5, len(f.differences))])
		default:
			good++
			fmt.Fprintf(d.out, "        %s: generation %d, %d entries equal the source's\n", listed.InstanceID, f.said.Generation, f.entries)
		}
	}
	return good, stale, nil
}

// finding is what a look at a member found.
type finding struct {
	said        agentStatus
	entries     int      // of the source
	differences []string // from the source
}

func (d *demo) look(ctx context.Context, instanceID string) (f finding, err error) {
	h, err := d.lab.Host(instanceID)
	if err != nil {
		return f, err
	}
	if f.said, err = statusOf(ctx, h); err != nil {
		return f, err
	}
	f.entries, f.differences, err = compare(ctx, d.server, sourceTwo, h)
	return f, err
}

// reboot reboots one member, which must come up with the volume that it had.
func (d *demo) reboot(ctx context.Context) error {
	members := d.lab.Members(group)
	id := members[len(members)-1].InstanceID
	d.say("reboot %s", id)
	h, err := d.lab.Host(id)
	if err != nil {
		return err
	}
	before, err := statusOf(ctx, h)
	if err != nil {
		return err
	}
	volumes := len(d.lab.Account.Volumes())
	if err := d.lab.Reboot(ctx, id); err != nil {
		return err
	}
	after, err := statusOf(ctx, h)
	if err != nil {
		return err
	}
	if after != before || len(d.lab.Account.Volumes()) != volumes {
		return fmt.Errorf("after its reboot %s says %+v, before it said %+v; there are %d volumes, before there were %d",
			id, after, before, len(d.lab.Account.Volumes()), volumes)
	}
	d.say("it adopted its volume %s, generation %d", after.VolumeID, after.Generation)
	return nil
}

// scaleIn leaves one member, and counts the volumes of the others that are still there once these
// are gone.
func (d *demo) scaleIn(ctx context.Context) (orphans int, err error) {
	d.say("scale %s in to 1", group)
	if err := d.lab.Account.SetDesired(group, 1); err != nil {
		return 0, err
	}
	if err := d.lab.InService(ctx, group, 1); err != nil {
		return 0, err
	}
	keep := []string{d.server.ID, d.lab.Members(group)[0].InstanceID}
	left := func() []cloud.Volume {
		return slices.DeleteFunc(d.lab.Account.Volumes(), func(v cloud.Volume) bool {
			return v.Attachment != nil && slices.Contains(keep, v.Attachment.InstanceID)
		})
	}
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := d.lab.Account.Wait(wait, func() bool { return len(left()) == 0 }); err != nil && ctx.Err() != nil {
		return 0, err
	}
	for _, v := range left() {
		fmt.Fprintf(d.out, "        orphan: %s, %s, %v\n", v.ID, v.State, v.Tags)
	}
	d.say("the volumes of the %d instances that went: %d left", peak-1, len(left()))
	return len(left()), nil
}
