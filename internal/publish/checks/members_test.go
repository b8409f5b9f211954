package checks

import (
	"context"
	"errors"
	"testing"

	"ebs-release/internal/advice"
	"ebs-release/internal/doctor"
	"ebs-release/internal/fleet"
)

// saying is a publish.Health that says the same each time.
type saying struct {
	reasons map[string]string
	err     error
}

func (w saying) Look(context.Context, string, []fleet.Member) (map[string]string, error) {
	return w.reasons, w.err
}

func (w saying) Idle(context.Context) error { return w.err }

func TestDoctorAsksWhoIsHealthy(t *testing.T) {
	two := []fleet.Member{{InstanceID: "i-1"}, {InstanceID: "i-2"}}
	denied := advice.Try(errors.New("not allowed"), "allow it")
	for name, tt := range map[string]struct {
		by, steps string
		says      saying
		listed    []fleet.Member
		health    doctor.Finding
		refreshes doctor.Finding
	}{
		"their programs": {"programs", "1", saying{}, two,
			doctor.Finding{State: doctor.OK, Says: "by their own programs"}, doctor.Finding{State: doctor.OK, Says: "none is going on"}},
		"all": {"group", "1", saying{}, two,
			doctor.Finding{State: doctor.OK, Says: "all, by group"}, doctor.Finding{State: doctor.OK, Says: "none is going on"}},
		"one is not": {"group", "1", saying{reasons: map[string]string{"i-2": "Unhealthy"}}, two,
			doctor.Finding{State: doctor.Warn, Says: "by group, 1 of 2 are not healthy: i-2: Unhealthy"}, doctor.Finding{State: doctor.OK, Says: "none is going on"}},
		"nobody": {"target-groups", "", saying{}, nil,
			doctor.Finding{State: doctor.Warn, Says: "cannot be tried: there is no member"}, doctor.Finding{State: doctor.OK, Says: "none is going on"}},
		"a right is missing": {"target-groups", "1", saying{err: denied}, two,
			doctor.Finding{State: doctor.Fail, Says: "not allowed", Try: "allow it"}, doctor.Finding{State: doctor.Fail, Says: "not allowed", Try: "allow it"}},
		"and nobody needs it": {"target-groups", "", saying{err: denied}, two,
			doctor.Finding{State: doctor.Warn, Says: "no rollout could begin: not allowed", Try: "allow it"},
			doctor.Finding{State: doctor.Warn, Says: "no rollout could begin: not allowed", Try: "allow it"}},
	} {
		d := &Doctor{listed: tt.listed, Health: tt.says, Healthy: tt.by, Rolls: tt.steps != ""}
		if got := check("", nil, d.health).Do(t.Context()); got != tt.health {
			t.Errorf("%s: %+v, want %+v", name, got, tt.health)
		}
		if got := check("", nil, d.refreshes).Do(t.Context()); got != tt.refreshes {
			t.Errorf("%s: %+v, want %+v", name, got, tt.refreshes)
		}
	}
}
