package main

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"ebs-release/internal/cli"
	"ebs-release/internal/doctor"
	"ebs-release/internal/exit"
	"ebs-release/internal/freeze"
)

// The test binary plays the children that the agent starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == freeze.TryWriteVerb || os.Args[1] == diskWorkVerb) {
		main()
	}
	os.Exit(m.Run())
}

func TestDoctorEndsWith1WhenACheckFails(t *testing.T) {
	a := newAgent(t, nil)
	a.output = cli.JSON
	err := a.diagnose(t.Context(), []doctor.Check{
		{Name: "unit", Do: func(context.Context) doctor.Finding { return doctor.Fine("it is enabled") }},
		{Name: "pointer", Do: func(context.Context) doctor.Finding { return doctor.Failure("set it", "there is none") }},
	})
	stdout := a.out.String()
	var report doctor.Report
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		t.Fatalf("%v in %s", err, stdout)
	}
	if exit.Code(err) != exit.Failed || report.State != doctor.Fail || report.Schema != 1 || !strings.Contains(err.Error(), "checks failed") {
		t.Errorf("%v: %+v", err, report)
	}
}

func TestConfigCheck(t *testing.T) {
	for _, tc := range []struct {
		name string
		env  map[string]string
		code int
		says string
	}{
		{"right", map[string]string{"EBS_RELEASE_POINTER": "http://r/release.json"}, exit.Done, "ok: the pointer is http://r/release.json"},
		{"no pointer", nil, exit.Usage, "there is no pointer. Try: set --pointer"},
		{"wrong value", map[string]string{"EBS_RELEASE_POINTER": "http://r/", "EBS_RELEASE_DEADLINE": "4"}, exit.Usage, `setting deadline is "4" (from environment EBS_RELEASE_DEADLINE)`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, stdout, stderr := newAgent(t, tc.env).do(t, "config", "check")
			if code != tc.code || !strings.Contains(stdout+stderr, tc.says) {
				t.Errorf("exit %d: %s%s", code, stdout, stderr)
			}
		})
	}
}
