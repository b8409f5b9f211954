package up

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ebs-release/internal/boot"
	"ebs-release/internal/logging"
	"ebs-release/internal/status"
	"ebs-release/internal/words"

	"golang.org/x/sys/unix"
)

// reporter is boot.Progress and boot.Gate: it says where the boot is, in status.json, to systemd
// and in the log, and opens the gate.
type reporter struct {
	Up

	now     status.Status
	unheard bool           // systemd did not read what goes on
	served  *status.Status // what an earlier run wrote, as long as its volume may be served: it is not overwritten
}

func newReporter(u Up) *reporter {
	return &reporter{Up: u, now: status.Status{
		Schema: status.Schema, State: status.Booting, MountPoint: u.Point, Started: time.Now().UTC(), Stages: []status.Stage{},
	}}
}

// begin replaces what an earlier run left, unless that is a volume that is served: whatever becomes
// of this run, it can be pushed to until it is replaced.
func (r *reporter) begin() error {
	earlier, err := r.Dir.Read()
	if err == nil && earlier.State == status.Ready && earlier.MountPoint == r.now.MountPoint && r.Serves(earlier) {
		r.served = &earlier
		return nil
	}
	return r.Dir.Write(r.now)
}

// Started is of boot.Progress.
func (r *reporter) Started(stage string, f boot.Facts) {
	r.learn(f)
	r.now.Stage = stage
	r.Where.Set(whereabouts(stage, f))
	r.save()
	r.Log.Info(stage+" started", "stage", stage)
	r.notify("STATUS=" + stage + r.about())
}

// whereabouts is where the boot is, for the lines in the journal.
func whereabouts(stage string, f boot.Facts) map[string]string {
	fields := map[string]string{logging.FieldStage: stage}
	if f.SnapshotID != "" {
		fields[logging.FieldSnapshot] = f.SnapshotID
	}
	if f.Generation > 0 {
		fields[logging.FieldGeneration] = fmt.Sprint(f.Generation)
	}
	if f.VolumeID != "" {
		fields[logging.FieldVolume] = f.VolumeID
	}
	return fields
}

// Ended is of boot.Progress.
func (r *reporter) Ended(stage string, took time.Duration, skipped bool, err error) {
	r.now.Stages = append(r.now.Stages, status.Stage{Name: stage, Milliseconds: took.Milliseconds(), Skipped: skipped})
	took = took.Round(time.Millisecond)
	switch {
	case errors.Is(err, context.Canceled):
		r.Log.Info(fmt.Sprintf("%s stopped after %s", stage, took), "stage", stage) // another failed meanwhile, or a signal came
	case err != nil:
		r.Log.Error(fmt.Sprintf("%s failed after %s", stage, took), "stage", stage)
	case skipped:
		r.Log.Info(stage+" had nothing to do", "stage", stage)
	default:
		r.Log.Info(fmt.Sprintf("%s finished in %s", stage, took), "stage", stage)
	}
}

// Open is of boot.Gate. The files first: what systemd starts on READY=1 may read them.
func (r *reporter) Open(ctx context.Context, f boot.Facts) error {
	r.learn(f)
	r.now.State, r.now.Finished = status.Ready, time.Now().UTC()
	if err := r.Dir.WriteEnvironment(r.now); err != nil {
		return err
	}
	if err := r.keepReach(); err != nil {
		r.Log.Warn("the next push to this member may not find its store", "error", err)
	}
	if err := r.Dir.Write(r.now); err != nil {
		return err
	}
	if err := logging.TellSystemd(ctx, fmt.Sprintf("READY=1\nSTATUS=ready%s", r.about())); err != nil {
		return fmt.Errorf("say ready to systemd: %w", err)
	}
	return nil
}

// keepReach lets the owner of the tree know where the packs are.
func (r *reporter) keepReach() error {
	var root unix.Stat_t
	if err := unix.Stat(r.now.MountPoint, &root); err != nil {
		return fmt.Errorf("release volume %s: %w", r.now.MountPoint, err)
	}
	return r.Dir.KeepReach(r.Reach, int(root.Uid), int(root.Gid))
}

// finish writes the end of the boot.
func (r *reporter) finish(failure error) error {
	if failure == nil {
		return r.Dir.Write(r.now) // with the time of the last stage
	}
	if errors.Is(failure, boot.ErrWarmed) {
		r.served = nil
		r.now.State, r.now.Stage, r.now.Finished = status.Warmed, "", time.Now().UTC()
		r.save()
		return nil
	}
	if r.served != nil && r.Serves(*r.served) {
		r.served.Warning = "the last `up` failed: " + words.OneLine(failure)
		r.notify("STATUS=" + r.served.Warning)
		return r.Dir.Write(*r.served)
	}
	r.served = nil
	r.now.State, r.now.Finished, r.now.Error = status.Failed, time.Now().UTC(), words.OneLine(failure)
	r.save()
	r.notify("STATUS=failed: " + r.now.Error)
	return nil
}

func (r *reporter) learn(f boot.Facts) {
	r.now.InstanceID, r.now.Generation, r.now.Release = f.InstanceID, f.Generation, f.Release
	r.now.SnapshotID, r.now.VolumeID, r.now.Device = f.SnapshotID, f.VolumeID, f.Device
	r.now.Pending, r.now.Brought = f.Pending, f.Brought
	if r.served != nil && f.VolumeID != "" && f.VolumeID != r.served.VolumeID {
		r.served = nil
	}
}

func (r *reporter) about() string {
	text := ""
	if r.now.SnapshotID != "" {
		text = fmt.Sprintf(", generation %d, %s", r.now.Generation, r.now.SnapshotID)
	}
	if r.now.VolumeID != "" {
		text += ", " + r.now.VolumeID
	}
	return text
}

// save writes status.json on the way: it is for people, so the boot goes on without it.
func (r *reporter) save() {
	if r.served != nil {
		return
	}
	if err := r.Dir.Write(r.now); err != nil {
		r.Log.Warn("cannot tell where the boot is", "error", err)
	}
}

// notify tells systemd what goes on. The boot does not depend on it: one that does not read is not
// asked again.
func (r *reporter) notify(state string) {
	if r.unheard {
		return
	}
	if err := logging.MentionToSystemd(context.Background(), state); err != nil {
		r.unheard = true
		r.Log.Debug("cannot tell systemd", "error", err)
	}
}
