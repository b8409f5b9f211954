package main

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"ebs-release/internal/boot/disks"
	"ebs-release/internal/cli"
	"ebs-release/internal/doctor"
	"ebs-release/internal/exit"
	"ebs-release/internal/freeze"

	"github.com/rogpeppe/go-internal/testscript"
)

// The test binary plays the children that the agent starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == freeze.TryWriteVerb || os.Args[1] == disks.Verb) {
		main()
	}
	testscript.Main(m, map[string]func(){"ebs-release-agent": main})
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
