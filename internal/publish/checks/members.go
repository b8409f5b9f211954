package checks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"ebs-release/internal/advice"
	"ebs-release/internal/doctor"
	"ebs-release/internal/health"
	"ebs-release/internal/publish"
	"ebs-release/internal/store"
	"ebs-release/internal/volume"
)

func (d *Doctor) list(ctx context.Context) (string, error) {
	current, err := d.Store.Read(ctx)
	if err != nil {
		return "", err
	}
	if d.listed, err = d.Members(ctx); err != nil {
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
		return "", advice.Try(doctor.Minorf("%d of %d are not on generation %d: %s",
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
func (d *Doctor) rights(ctx context.Context) (string, error) {
	var tried []string
	var made, brought bool
	for _, m := range d.listed {
		switch {
		case m.Made != "" && !made:
			made = true
			tried = append(tried, m.Made)
			if err := RightsOnMember(ctx, d.EC2, m.Made, m.Made); err != nil {
				return "", err
			}
		case m.OnInstance && !brought:
			brought = true
			tried = append(tried, m.InstanceID)
			if err := RightsOnMember(ctx, d.EC2, m.InstanceID, ""); err != nil {
				return "", err
			}
		}
	}
	if len(tried) == 0 {
		return "", doctor.Minorf("cannot be tried: no member has a volume that was made for it, or has tagged itself")
	}
	return strings.Join(tried, ", "), nil
}

// ssh logs in to every member that is ready, as P0 does.
func (d *Doctor) ssh(ctx context.Context) (string, error) {
	ready, failed := 0, []error(nil)
	errs := make(chan error, len(d.listed))
	slots := make(chan struct{}, d.Parallel)
	for _, m := range d.listed {
		if !volume.Serves(m.State) {
			continue
		}
		ready++
		go func() { // ends with ctx
			slots <- struct{}{}
			defer func() { <-slots }()
			session, err := d.Dial(ctx, m)
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
		return "", doctor.Minorf("cannot be tried: no member is ready")
	case len(failed) == 0:
		return fmt.Sprintf("%d of %d", ready, ready), nil
	case len(failed) == ready:
		return "", fmt.Errorf("none of %d can be reached: %w", ready, failed[0])
	}
	return "", doctor.Minorf("%d of %d cannot be reached: %w", len(failed), ready, errors.Join(failed...))
}

// bucketChecks look at what a bucket does to a store besides what it is asked for; none for a
// directory.
func (d *Doctor) bucketChecks() []doctor.Check {
	bucket, ok := d.Store.Objects().(*store.S3)
	if !ok {
		return nil
	}
	of := func(look func(context.Context, *store.S3) (string, error)) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) { return look(ctx, bucket) }
	}
	reading := func(context.Context) (string, error) { return CostOfReading(len(d.listed)), nil }
	return []doctor.Check{
		check("lifecycle of the bucket", []string{checkAccount, checkStore}, of(Lifecycle)),
		check("versions in the bucket", []string{checkAccount, checkStore}, of(Versions)),
		check("cost of reading", []string{checkAccount, checkMembers}, reading),
	}
}

// health asks for the members' health as a rollout does: the rights are tried with it.
func (d *Doctor) health(ctx context.Context) (string, error) {
	by := d.Healthy
	if by == health.Programs {
		return "by their own programs", nil
	}
	reasons, err := d.Health.Look(ctx, by, d.listed)
	if err != nil {
		return "", d.ofRollouts(err)
	}
	var bad []string
	for _, id := range slices.Sorted(maps.Keys(reasons)) {
		bad = append(bad, id+": "+reasons[id])
	}
	switch {
	case len(bad) > 0:
		return "", doctor.Minorf("by %s, %d of %d are not healthy: %s", by, len(bad), len(d.listed), strings.Join(bad, "; "))
	case len(d.listed) == 0:
		return "", doctor.Minorf("cannot be tried: there is no member")
	}
	return "all, by " + by, nil
}

// refreshes are of Auto Scaling, and replace members.
func (d *Doctor) refreshes(ctx context.Context) (string, error) {
	if err := d.Health.Idle(ctx); err != nil {
		return "", d.ofRollouts(err)
	}
	return "none is going on", nil
}

// ofRollouts is what only a rollout cannot live with.
func (d *Doctor) ofRollouts(err error) error {
	if !d.Rolls {
		words, try := advice.Of(err)
		return advice.Try(doctor.Minorf("no rollout could begin: %s", words), "%s", try)
	}
	return err
}
