package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/doctor"
	"ebs-release/internal/fleet"
	"ebs-release/internal/hook"
	"ebs-release/internal/publish"
	"ebs-release/internal/publish/checks"
	"ebs-release/internal/release"
	"ebs-release/internal/store"
	"ebs-release/internal/volume"
)

// Names of checks that others need.
const (
	checkAccount = "account"
	checkStore   = "pointer store"
	checkMembers = "members"
)

// doctorChecks are what P0 checks, and what else can be looked at. Later ones build on what earlier
// ones found.
func (p *parts) doctorChecks() []doctor.Check {
	all := []doctor.Check{
		check(checkStore, nil, p.lookAtStore),
		check("lock", nil, p.lookAtLock),
		check("pointer", []string{checkAccount}, p.lookAtPointer),
		check("rollout and hold", []string{checkAccount, "pointer"}, p.lookAtRollout),
	}
	for _, c := range p.checks.list() {
		all = append(all, check(c.Name, needs(c.Name), func(ctx context.Context) (string, error) { return "", c.Do(ctx) }))
	}
	m := &memberChecks{parts: p}
	all = append(all,
		check("clock", []string{checkAccount}, p.lookAtClock),
		check("release on the volume", []string{checkVolume}, p.lookAtCurrent),
		check("snapshot of the pointer", []string{checkAccount, "pointer"}, p.lookAtSnapshot),
		check("right to delete snapshots", []string{checkAccount, "pointer"}, p.tryDeleteSnapshot),
		check("launch templates", []string{checkAccount, "pointer"}, p.lookAtTemplates),
		check("what groups launch from", []string{checkAccount, "pointer"}, p.lookAtLaunches),
		check(checkMembers, []string{checkAccount}, m.list),
		check("rights on members' volumes", []string{checkAccount, checkMembers}, m.rights),
		check("health of the members", []string{checkAccount, checkMembers}, m.health),
		check("instance refresh", []string{checkAccount, checkMembers}, m.refreshes),
	)
	if !follows(p.values) {
		all = append(all, check("ssh to the members", []string{checkAccount, checkKey, checkMembers}, m.ssh))
	}
	all = append(all, check("programs of publish.d", nil,
		lookAtPrograms(filepath.Join(hooksFolder, hookBefore), filepath.Join(hooksFolder, hookVerify), filepath.Join(hooksFolder, hookAfter))))
	all = append(all, check("programs of rollout.d", nil, lookAtPrograms(rolloutFolder)))
	all = append(all, check("left-over volumes", []string{checkAccount}, p.lookAtOrphans))
	return append(all, m.bucketChecks()...)
}

// needs are the checks that a check of P0 builds on.
func needs(check string) []string {
	switch check {
	case checkTree, "disk space", "freeze":
		return []string{checkVolume}
	case checkSigns:
		return []string{checkVolume, checkTree}
	case "volume", "rights by DryRun":
		return []string{checkVolume, checkAccount}
	}
	return nil
}

// lookAtStore writes and removes an object: what the pointer needs.
func (p *parts) lookAtStore(ctx context.Context) (string, error) {
	if err := p.store.TryWrite(ctx); err != nil {
		return "", advice.Errorf("%w; the publisher has to write the pointer there", err)
	}
	return p.values.Get("pointer-store"), nil
}

func (p *parts) lookAtClock(ctx context.Context) (string, error) {
	return "agrees with EC2's", checks.Clock(ctx, p.ec2)
}

// lookAtPrograms looks at the operator's programs as a publish does before it runs them.
func lookAtPrograms(directories ...string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		says, plain, err := hook.Inspect(directories, os.Geteuid())
		if err == nil && len(plain) > 0 {
			wrong, try := hook.NotExecutable(plain)
			err = advice.Try(warn("%s", wrong), "%s", try)
		}
		return says, err
	}
}

func (p *parts) lookAtLock(ctx context.Context) (string, error) {
	holder, held, err := p.store.Holder(ctx)
	if err == nil && held {
		err = advice.Try(warn("held by %s", holder), "wait until it is done, or `ebs-release lock release`")
	}
	return "free", err
}

// lookAtRollout says what keeps publishes back.
func (p *parts) lookAtRollout(ctx context.Context) (string, error) {
	current, err := p.store.Read(ctx)
	if err != nil {
		return "", err
	}
	now := time.Now()
	if said := sayHold(current.Hold, now); said != "" {
		return "", advice.Try(warn("%s", said), "ebs-release hold --release")
	}
	ro := current.Rollout
	switch {
	case ro == nil:
		return "none is open, and no hold is on", nil
	case !publish.Driven(*ro, now):
		return "", advice.Try(warn("%s", publish.SayRollout(current, now)), "ebs-release rollout resume, finish or abort")
	}
	return publish.SayRollout(current, now), nil
}

func (p *parts) lookAtPointer(ctx context.Context) (string, error) {
	current, err := p.store.Read(ctx)
	switch {
	case err != nil:
		return "", err
	case current.Generation == 0:
		return "", advice.Try(warn("nothing has been published yet, and instances that launch wait for it"), "ebs-release publish SOURCE")
	}
	if _, err := p.store.History(ctx); err != nil {
		return "", err
	}
	if _, err := current.Snapshot(p.Settings.Region); err != nil {
		return "", err
	}
	signed := ""
	if len(p.signs.Trusted) > 0 {
		signed = ", signed"
	}
	return fmt.Sprintf("generation %d, release %s%s", current.Generation, current.Release, signed), nil
}

// lookAtCurrent compares the release volume with the pointer.
func (p *parts) lookAtCurrent(ctx context.Context) (string, error) {
	current, err := p.store.Read(ctx)
	if err != nil {
		return "", err
	}
	onVolume, err := p.volume.Current()
	switch {
	case err != nil:
		return "", err
	case onVolume != current.Release && current.Generation > 0:
		return "", advice.Try(warn("%s is current on the release volume, the pointer names %s: a publish was killed",
			orDash(onVolume), current.Release),
			"ebs-release publish, which puts it right")
	}
	return orDash(onVolume), nil
}

func (p *parts) lookAtSnapshot(ctx context.Context) (string, error) {
	id, err := p.pointerSnapshot(ctx)
	if err != nil || id == "" {
		return "none yet", err
	}
	current, err := p.store.Read(ctx)
	if err != nil {
		return "", err
	}
	usable, err := p.maker.Usable(ctx, id)
	if err == nil && !usable {
		err = advice.Try(fmt.Errorf("%s is gone, or not completed: instances that launch now cannot boot", id),
			"ebs-release publish %s (at once)", release.Path(p.volume.point, current.Release))
	}
	if err != nil {
		return "", err
	}
	past, err := p.store.History(ctx)
	if err != nil {
		return "", err
	}
	lag := publish.LagOf(current, past)
	if lag == nil {
		return id, nil
	}
	if warning := lag.Warning(p.values.Duration("snapshot-lag")); warning != "" {
		return "", warn("%s: %w", id, advice.Parse(warning))
	}
	return fmt.Sprintf("%s of generation %d, %v", id, lag.Generation, lag), nil
}

func (p *parts) pointerSnapshot(ctx context.Context) (string, error) {
	current, err := p.store.Read(ctx)
	if err != nil || current.Generation == 0 {
		return "", err
	}
	return current.Snapshot(p.Settings.Region)
}

// tryDeleteSnapshot needs a snapshot that is there: the right hangs on its tags.
func (p *parts) tryDeleteSnapshot(ctx context.Context) (string, error) {
	id, err := p.pointerSnapshot(ctx)
	switch {
	case err != nil:
		return "", err
	case id == "":
		return "", warn("cannot be tried before the first publish")
	}
	return "", p.maker.CheckDelete(ctx, id)
}

func (p *parts) lookAtOrphans(ctx context.Context) (string, error) {
	orphans, err := fleet.Orphans(ctx, p.ec2)
	if err != nil {
		return "", err
	}
	return "none", checks.LeftOver(orphans, time.Now())
}

// memberChecks is what the checks of the members share.
type memberChecks struct {
	*parts
	listed []fleet.Member
}

func (d *memberChecks) list(ctx context.Context) (string, error) {
	current, err := d.store.Read(ctx)
	if err != nil {
		return "", err
	}
	if d.listed, err = d.members.List(ctx); err != nil {
		return "", err
	}
	var behind []string
	for _, m := range d.listed {
		switch v := publish.View(m, current); v.Standing {
		case publish.StandsBehind, publish.StandsBooting, publish.StandsAhead, publish.StandsHookFailed, publish.StandsOtherStore:
			behind = append(behind, fmt.Sprintf("%s (%s, generation %d)", m.InstanceID, v.Standing, m.Generation))
		}
	}
	if len(behind) > 0 && current.Generation > 0 {
		return "", advice.Try(warn("%d of %d are not on generation %d: %s",
			len(behind), len(d.listed), current.Generation, strings.Join(behind, ", ")),
			"ebs-release converge (for those that have booted)")
	}
	switch {
	case len(d.listed) == 0:
		return "none yet", nil
	case current.Generation == 0:
		return fmt.Sprint(len(d.listed)), nil
	}
	return fmt.Sprintf("%d, all on the current generation", len(d.listed)), nil
}

// rights are tried on one member of each kind: with a volume that was made for it, and with one
// that EC2 brought.
func (d *memberChecks) rights(ctx context.Context) (string, error) {
	var tried []string
	var made, brought bool
	for _, m := range d.listed {
		switch {
		case m.Made != "" && !made:
			made = true
			tried = append(tried, m.Made)
			if err := checks.RightsOnMember(ctx, d.ec2, m.Made, m.Made); err != nil {
				return "", err
			}
		case m.OnInstance && !brought:
			brought = true
			tried = append(tried, m.InstanceID)
			if err := checks.RightsOnMember(ctx, d.ec2, m.InstanceID, ""); err != nil {
				return "", err
			}
		}
	}
	if len(tried) == 0 {
		return "", warn("cannot be tried: no member has a volume that was made for it, or has tagged itself")
	}
	return strings.Join(tried, ", "), nil
}

// ssh logs in to every member that is ready, as P0 does.
func (d *memberChecks) ssh(ctx context.Context) (string, error) {
	ready, failed := 0, []error(nil)
	errs := make(chan error, len(d.listed))
	slots := make(chan struct{}, d.Settings.Parallel)
	for _, m := range d.listed {
		if !volume.Serves(m.State) {
			continue
		}
		ready++
		go func() { // ends with ctx
			slots <- struct{}{}
			defer func() { <-slots }()
			session, err := d.dialer.open(ctx, m)
			if err == nil {
				err = session.Close()
			}
			errs <- err
		}()
	}
	for range ready {
		if err := <-errs; err != nil {
			failed = append(failed, err)
		}
	}
	switch {
	case ready == 0:
		return "", warn("cannot be tried: no member is ready")
	case len(failed) == 0:
		return fmt.Sprintf("%d of %d", ready, ready), nil
	case len(failed) == ready:
		return "", fmt.Errorf("none of %d can be reached: %w", ready, failed[0])
	}
	return "", warn("%d of %d cannot be reached: %w", len(failed), ready, errors.Join(failed...))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// bucketChecks look at what a bucket does to a store besides what it is asked for; none for a
// directory.
func (d *memberChecks) bucketChecks() []doctor.Check {
	bucket, ok := d.store.Objects().(*store.S3)
	if !ok {
		return nil
	}
	of := func(look func(context.Context, *store.S3) (string, error)) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) { return look(ctx, bucket) }
	}
	reading := func(context.Context) (string, error) { return checks.CostOfReading(len(d.listed)), nil }
	return []doctor.Check{
		check("lifecycle of the bucket", []string{checkAccount, checkStore}, of(checks.Lifecycle)),
		check("versions in the bucket", []string{checkAccount, checkStore}, of(checks.Versions)),
		check("cost of reading", []string{checkAccount, checkMembers}, reading),
	}
}
