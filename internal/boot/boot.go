// Package boot is the boot of a member, and the place to start reading the agent. One sentence, in
// this order:
//
//	identify -> resolve -> adopt -> create -> look for newer -> attach -> protect ->
//	find device -> check -> mount -> catch up -> verify -> may serve -> report -> re-read -> ready
//
// Here is the order, the time that each stage may take, and what follows from a failure. What the
// stages do to the world is behind the small interfaces of parts.go. The packages below implement
// them: source has Pointers; account has Instance and Volumes; disks has Disks and Mounts; up has
// Gate and Progress, and calls Run. agent/up.go puts all of it together.
//
// A stage is a part of a boot here. (Elsewhere to stage is to put a release on a member that
// serves.) The gate is what the application waits for: READY=1 to systemd. (A rollout has a gate,
// too, which is a command: publish.Asks.)
//
// Two orders matter most:
//
//   - Report comes before re-read. The publisher moves the pointer and then lists members; this
//     program reports itself and then reads the pointer again. Whichever is first, one of them sees
//     the other, so no member serves an older release unnoticed.
//   - The release becomes visible last. mount makes a detached mount, which nobody else sees; catch
//     up brings it to the pointer's release; verify looks inside; and only ready, after the pointer
//     was read again, moves it to the mount point and opens the gate. A pointer that moved
//     meanwhile leads back to catch up, with the same volume; or to resolve, where that is served
//     already, or where catching up would not do.
//
// A generation never goes back: when the pointer names an older one than a volume here holds, the
// boot fails and leaves that volume and its mount alone (ErrOlder); so it does when the pointer is
// not signed by a key that the volume trusts (ErrUnsigned). A volume that never served here cannot
// know: there the snapshots of the store are asked, which nobody takes back.
//
// An instance in a warm pool is to serve nothing: there the boot ends at may serve, with a volume
// that is prepared and mounted nowhere (ErrWarmed). When the group takes the instance into service
// another boot follows, from the beginning: whatever was read in the pool counts for nothing.
//
// A boot may be killed at any point and started again: adopt looks at what is there and goes on
// from it.
package boot

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"ebs-release/internal/advice"
)

// The names of the stages.
const (
	StageIdentify = "identify"
	StageResolve  = "resolve"
	StageAdopt    = "adopt"
	StageCreate   = "create"
	StageNewer    = "look for newer"
	StageAttach   = "attach"
	StageProtect  = "protect"
	StageFind     = "find device"
	StageCheck    = "check"
	StageMount    = "mount"
	StageCatchUp  = "catch up"
	StageVerify   = "verify"
	StageMayServe = "may serve"
	StageReport   = "report"
	StageReread   = "re-read"
	StageReady    = "ready"
)

// stage is one step. It is skipped when done says so, and done is asked again after do.
type stage struct {
	name   string
	budget time.Duration // the whole boot has a deadline besides; 0: what is left of that
	done   func() bool
	do     func(context.Context) error
	hint   string // what to do next, when the error itself does not say
}

// chain is stages that come one after the other.
type chain []stage

// line is chains that run side by side; the next line waits for all of them.
type line []chain

// stages is the boot sentence.
func (b *boot) stages() []line {
	return []line{
		{
			{{StageIdentify, time.Minute, b.identified, b.identify, "is the instance metadata service switched on, with a hop limit of 1 or more?"}},
			{{StageResolve, 2 * time.Minute, b.resolved, b.resolve, "fetch the pointer's URL by curl from this instance"}},
		},
		{{{StageAdopt, 90 * time.Second, nil, b.adopt, "look at the volumes of this instance in EC2, and at the mount point"}}},
		{{{StageCreate, time.Minute, b.haveVolume, b.create, "look at the snapshot and at the volume limits of the account"}}},
		{
			{{StageNewer, time.Minute, b.noneNewer, b.lookForNewer, "look at the snapshots of the store, by their tags"}},
			{{StageAttach, 2 * time.Minute, b.attached, b.attach, "look at the attachments of this instance in EC2"}},
		},
		{
			{{StageProtect, 30 * time.Second, b.protected, b.protect, "allow ec2:ModifyInstanceAttribute in the role of this instance"}},
			{
				{StageFind, 90 * time.Second, b.haveDisk, b.find, "look at /sys/block/*/device/serial and at the attachment in EC2"},
				{StageCheck, 2 * time.Minute, b.checked, b.check, "look at the volume that the snapshot was made from"},
				{StageMount, 30 * time.Second, b.haveMount, b.mount, "look into the kernel's log (dmesg)"},
				{StageCatchUp, 0, b.caughtUp, b.catchUp, "see whether this instance reaches the store of the pointer, and its packs"},
				{StageVerify, 30 * time.Second, b.verified, b.verify, "publish again"},
			},
		},
		{{{StageMayServe, time.Minute, nil, b.mayServe, "is the instance metadata service switched on, with a hop limit of 1 or more?"}}},
		{{{StageReport, 30 * time.Second, b.reported, b.report, "allow ec2:CreateTags in the role of this instance"}}},
		{{{StageReread, time.Minute, nil, b.reread, "fetch the pointer's URL by curl from this instance"}}},
		{{{StageReady, 30 * time.Second, nil, b.ready, "look at the mount point"}}},
	}
}

// Run boots: it returns when the wanted release is at the mount point and the gate is open, or with
// an *Error, or with ErrWarmed. ctx carries the deadline of the whole boot. A volume that a failed
// boot made is removed, unless it is safe to leave to the next one.
func Run(ctx context.Context, parts Parts, progress Progress, log *slog.Logger) (Facts, error) {
	b := &boot{Parts: parts, progress: progress, log: log, made: map[string]bool{}, removed: map[string]bool{}}
	work, cancel, tidy := workingTime(ctx)
	defer cancel()
	err := b.run(work)
	if errors.Is(err, ErrWarmed) {
		return b.facts(), b.rest(work)
	}
	if err != nil {
		var failed *Error
		if errors.As(err, &failed) {
			failed.Late = errors.Is(work.Err(), context.DeadlineExceeded)
			failed.Err = advice.Try(failed.Err, "%s", failed.hint)
		}
		b.cleanUp(ctx, tidy, err)
		return b.facts(), err
	}
	return b.facts(), nil
}
