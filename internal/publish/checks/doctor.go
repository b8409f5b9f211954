package checks

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/doctor"
	"ebs-release/internal/fleet"
	"ebs-release/internal/hook"
	"ebs-release/internal/pointer"
	"ebs-release/internal/publish"
	"ebs-release/internal/release"
	"ebs-release/internal/template"
)

// Templates are the launch templates of the groups.
type Templates interface {
	Rights(ctx context.Context) error
	// Behind warns of those that do not name the pointer's snapshot.
	Behind(ctx context.Context, current pointer.Pointer) (warnings []string, err error)
	Launches(ctx context.Context) ([]template.Launch, error)
}

// Doctor is what P0 tries, and what else can be looked at. Its checks share what they find.
type Doctor struct {
	Checks

	Region            string
	Account           error // why there is no configuration for calls of AWS
	Parallel          int
	MostLag           time.Duration // of the newest snapshot, before it is worth a warning
	Healthy           string        // see publish.Terms
	Rolls             bool          // a publish is a rollout
	FollowedTemplates []string      // that follow the pointer
	PublishPrograms   []string      // directories
	RolloutPrograms   string        // a directory

	Members   func(context.Context) ([]fleet.Member, error)
	Dial      func(context.Context, fleet.Member) (io.Closer, error)
	Health    publish.Health
	Templates Templates

	listed []fleet.Member // by the check of the members
}

// Names of checks that others need.
const (
	checkAccount = "account"
	checkStore   = "pointer store"
	checkMembers = "members"
)

// List has the checks in their order: later ones build on what earlier ones found.
func (d *Doctor) List() []doctor.Check {
	d.explains = true
	all := []doctor.Check{
		check(checkAccount, nil, func(context.Context) (string, error) { return "Region " + d.Region, d.Account }),
		check(checkStore, nil, d.lookAtStore),
		check("lock", nil, d.lookAtLock),
		check("pointer", []string{checkAccount}, d.lookAtPointer),
		check("rollout and hold", []string{checkAccount, "pointer"}, d.lookAtRollout),
	}
	for _, c := range d.ForRollback() {
		all = append(all, check(c.Name, needs(c.Name), func(ctx context.Context) (string, error) { return "", c.Do(ctx) }))
	}
	all = append(all,
		check("clock", []string{checkAccount}, d.lookAtClock),
		check("release on the volume", []string{checkVolume}, d.lookAtCurrent),
		check("snapshot of the pointer", []string{checkAccount, "pointer"}, d.lookAtSnapshot),
		check("right to delete snapshots", []string{checkAccount, "pointer"}, d.tryDeleteSnapshot),
		check("launch templates", []string{checkAccount, "pointer"}, d.lookAtTemplates),
		check("what groups launch from", []string{checkAccount, "pointer"}, d.lookAtLaunches),
		check(checkMembers, []string{checkAccount}, d.list),
		check("rights on members' volumes", []string{checkAccount, checkMembers}, d.rights),
		check("health of the members", []string{checkAccount, checkMembers}, d.health),
		check("instance refresh", []string{checkAccount, checkMembers}, d.refreshes),
	)
	if !d.Follows {
		all = append(all, check("ssh to the members", []string{checkAccount, checkKey, checkMembers}, d.ssh))
	}
	all = append(all,
		check("programs of publish.d", nil, LookAtPrograms(d.PublishPrograms...)),
		check("programs of rollout.d", nil, LookAtPrograms(d.RolloutPrograms)),
		check("left-over volumes", []string{checkAccount}, d.lookAtOrphans),
	)
	return append(all, d.bucketChecks()...)
}

// check makes a check of a function that says what it found, or what is wrong.
func check(name string, needs []string, do func(context.Context) (string, error)) doctor.Check {
	return doctor.Check{Name: name, Needs: needs, Do: func(ctx context.Context) doctor.Finding {
		return doctor.Found(do(ctx))
	}}
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
func (d *Doctor) lookAtStore(ctx context.Context) (string, error) {
	if err := d.Store.TryWrite(ctx); err != nil {
		return "", advice.Errorf("%w; the publisher has to write the pointer there", err)
	}
	return d.PointerStore, nil
}

func (d *Doctor) lookAtClock(ctx context.Context) (string, error) {
	return "agrees with EC2's", Clock(ctx, d.EC2)
}

// LookAtPrograms looks at the operator's programs as a publish does before it runs them.
func LookAtPrograms(directories ...string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		says, plain, err := hook.Inspect(directories, os.Geteuid())
		if err == nil && len(plain) > 0 {
			wrong, try := hook.NotExecutable(plain)
			err = advice.Try(doctor.Minorf("%s", wrong), "%s", try)
		}
		return says, err
	}
}

func (d *Doctor) lookAtLock(ctx context.Context) (string, error) {
	holder, held, err := d.Store.Holder(ctx)
	if err == nil && held {
		err = advice.Try(doctor.Minorf("held by %s", holder), "wait until it is done, or `ebs-release lock release`")
	}
	return "free", err
}

// lookAtRollout says what keeps publishes back.
func (d *Doctor) lookAtRollout(ctx context.Context) (string, error) {
	current, err := d.Store.Read(ctx)
	if err != nil {
		return "", err
	}
	now := time.Now()
	if said := publish.SayHold(current.Hold, now); said != "" {
		return "", advice.Try(doctor.Minorf("%s", said), "ebs-release hold --release")
	}
	ro := current.Rollout
	switch {
	case ro == nil:
		return "none is open, and no hold is on", nil
	case !publish.Driven(*ro, now):
		return "", advice.Try(doctor.Minorf("%s", publish.SayRollout(current, now)), "ebs-release rollout resume, finish or abort")
	}
	return publish.SayRollout(current, now), nil
}

func (d *Doctor) lookAtPointer(ctx context.Context) (string, error) {
	current, err := d.Store.Read(ctx)
	switch {
	case err != nil:
		return "", err
	case current.Generation == 0:
		return "", advice.Try(doctor.Minorf("nothing has been published yet, and instances that launch wait for it"),
			"ebs-release publish SOURCE")
	}
	if _, err := d.Store.History(ctx); err != nil {
		return "", err
	}
	if _, err := current.Snapshot(d.Region); err != nil {
		return "", err
	}
	signed := ""
	if len(d.Signs.Trusted) > 0 {
		signed = ", signed"
	}
	return fmt.Sprintf("generation %d, release %s%s", current.Generation, current.Release, signed), nil
}

// lookAtCurrent compares the release volume with the pointer.
func (d *Doctor) lookAtCurrent(ctx context.Context) (string, error) {
	current, err := d.Store.Read(ctx)
	if err != nil {
		return "", err
	}
	onVolume, err := d.Volume.Current()
	switch {
	case err != nil:
		return "", err
	case onVolume != current.Release && current.Generation > 0:
		return "", advice.Try(doctor.Minorf("%s is current on the release volume, the pointer names %s: a publish was killed",
			cmp.Or(onVolume, "-"), current.Release),
			"ebs-release publish, which puts it right")
	}
	return cmp.Or(onVolume, "-"), nil
}

func (d *Doctor) lookAtSnapshot(ctx context.Context) (string, error) {
	id, err := d.pointerSnapshot(ctx)
	if err != nil || id == "" {
		return "none yet", err
	}
	current, err := d.Store.Read(ctx)
	if err != nil {
		return "", err
	}
	usable, err := d.Maker.Usable(ctx, id)
	if err == nil && !usable {
		err = advice.Try(fmt.Errorf("%s is gone, or not completed: instances that launch now cannot boot", id),
			"ebs-release publish %s (at once)", release.Path(d.MountPoint, current.Release))
	}
	if err != nil {
		return "", err
	}
	past, err := d.Store.History(ctx)
	if err != nil {
		return "", err
	}
	lag := publish.LagOf(current, past)
	if lag == nil {
		return id, nil
	}
	if warning := lag.Warning(d.MostLag); warning != "" {
		return "", doctor.Minorf("%s: %w", id, advice.Parse(warning))
	}
	return fmt.Sprintf("%s of generation %d, %v", id, lag.Generation, lag), nil
}

func (d *Doctor) pointerSnapshot(ctx context.Context) (string, error) {
	current, err := d.Store.Read(ctx)
	if err != nil || current.Generation == 0 {
		return "", err
	}
	return current.Snapshot(d.Region)
}

// tryDeleteSnapshot needs a snapshot that is there: the right hangs on its tags.
func (d *Doctor) tryDeleteSnapshot(ctx context.Context) (string, error) {
	id, err := d.pointerSnapshot(ctx)
	switch {
	case err != nil:
		return "", err
	case id == "":
		return "", doctor.Minorf("cannot be tried before the first publish")
	}
	return "", d.Maker.CheckDelete(ctx, id)
}

func (d *Doctor) lookAtOrphans(ctx context.Context) (string, error) {
	orphans, err := fleet.Orphans(ctx, d.EC2)
	if err != nil {
		return "", err
	}
	return "none", LeftOver(orphans, time.Now())
}
