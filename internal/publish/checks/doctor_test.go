package checks

import (
	"context"
	"errors"
	"testing"

	"ebs-release/internal/advice"
	"ebs-release/internal/doctor"
)

func TestTheAdviceOfAnErrorIsTheFindingsOwn(t *testing.T) {
	several := errors.Join(advice.Try(errors.New("a: no room"), "df"), advice.Try(errors.New("b: refused"), "ssh b"))
	for _, tc := range []struct {
		name string
		err  error
		want doctor.Finding
	}{
		{"nothing wrong", nil, doctor.Finding{State: doctor.OK, Says: "seen"}},
		{"without advice", errors.New("no room"), doctor.Finding{State: doctor.Fail, Says: "no room"}},
		{"with advice", advice.Try(errors.New("no room"), "df"), doctor.Finding{State: doctor.Fail, Says: "no room", Try: "df"}},
		{"a warning", advice.Try(doctor.Minorf("no release"), "publish"), doctor.Finding{State: doctor.Warn, Says: "no release", Try: "publish"}},
		{"of several", several, doctor.Finding{State: doctor.Fail, Says: "a: no room. Try: df; b: refused. Try: ssh b"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := check("x", nil, func(context.Context) (string, error) { return "seen", tc.err })
			if got := c.Do(t.Context()); got != tc.want {
				t.Errorf("%+v, want %+v", got, tc.want)
			}
		})
	}
}
