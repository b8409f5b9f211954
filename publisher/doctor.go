package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ebs-release/internal/publish"
	"ebs-release/internal/status"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/spf13/cobra"
)

// Verdicts of doctor.
const (
	verdictOK   = "ok"
	verdictWarn = "warn" // a publish goes through all the same
	verdictFail = "FAIL" // a publish would stop, or members would not get it
)

// finding is one line of doctor.
type finding struct {
	Check   string `json:"check"`
	Verdict string `json:"verdict"`
	Detail  string `json:"detail,omitempty"` // what was found; with warn and FAIL also what to do
}

// doctorReport is what `doctor --output json` prints.
type doctorReport struct {
	Schema   int       `json:"schema"`
	Failed   int       `json:"failed"`
	Warned   int       `json:"warned"`
	Findings []finding `json:"findings"`
}

// warning is an error that a publish can live with.
type warning struct{ error }

func warn(format string, args ...any) error { return warning{fmt.Errorf(format, args...)} }

// test is one thing that doctor looks at. What it finds when all is well may be empty.
type test struct {
	name  string
	needs []string // tests before it: when one of them fails there is nothing to learn from this one
	do    func(context.Context) (string, error)
}

// testTime is for one test: a doctor that hangs helps nobody.
const testTime = time.Minute

func (p *program) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Try everything that a publish needs, and say what to do about what is wrong",
		Long: `Try everything that a publish needs, a line each: ok, warn (a publish goes through all the same) or FAIL, and what to do. Rights are tried by DryRun.
Nothing is changed, and no lock is taken. Exit 1: something failed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.doctor(cmd.Context()) },
	}
}

func (p *program) doctor(ctx context.Context) error {
	values, err := p.settings("pointer-store", "groups")
	if err != nil {
		return err
	}
	report := doctorReport{Schema: status.Schema, Findings: []finding{}}
	var cfg aws.Config
	var awsErr error
	parts, err := assemble(values, p.configFile, job{verb: verbDoctor}, func() (aws.Config, error) {
		cfg, awsErr = loadAWS(ctx)
		return cfg, nil // the rest can be looked at all the same
	})
	if err != nil {
		return err
	}
	failed := map[string]bool{}
	for _, t := range append([]test{{name: testAccount, do: func(context.Context) (string, error) { return "Region " + cfg.Region, awsErr }}}, parts.tests()...) {
		detail, err := "", error(nil)
		if i := slices.IndexFunc(t.needs, func(name string) bool { return failed[name] }); i >= 0 {
			err = warn("not tried: see %s", t.needs[i])
		} else {
			testCtx, cancel := context.WithTimeout(ctx, testTime)
			detail, err = t.do(testCtx)
			cancel()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if p.find(&report, t.name, detail, err) == verdictFail {
			failed[t.name] = true
		}
	}
	if p.output == status.JSON {
		if err := p.printJSON(report); err != nil {
			return err
		}
	}
	if report.Failed > 0 {
		return fmt.Errorf("%d of %d checks failed", report.Failed, len(report.Findings))
	}
	return nil
}

// find adds a finding; as text it is printed at once.
func (p *program) find(report *doctorReport, name, detail string, err error) (verdict string) {
	f := finding{name, verdictOK, detail}
	var w warning
	switch {
	case errors.As(err, &w):
		f.Verdict, f.Detail = verdictWarn, publish.OneLine(err)
		report.Warned++
	case err != nil:
		f.Verdict, f.Detail = verdictFail, publish.OneLine(err)
		report.Failed++
	}
	report.Findings = append(report.Findings, f)
	if p.output != status.JSON {
		line := fmt.Sprintf("%-4s  %s", f.Verdict, f.Check)
		if f.Detail != "" {
			line += ": " + f.Detail
		}
		fmt.Fprintln(p.stdout, line)
	}
	return f.Verdict
}
