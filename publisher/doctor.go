package main

import (
	"context"
	"time"

	"ebs-release/internal/cli"
	"ebs-release/internal/doctor"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/spf13/cobra"
)

// warn is an error that a publish can live with.
func warn(format string, args ...any) error { return doctor.Minorf(format, args...) }

// checkTime is for one check: a doctor that hangs helps nobody.
const checkTime = time.Minute

func (p *program) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check everything that a publish needs, and say what to do",
		Long: `Check everything that a publish needs. Each check prints one line: ok, warn (a
publish works all the same) or FAIL, with what to do. Rights are tried with
DryRun. Nothing is changed, and no lock is taken. Exit 1: a check failed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.doctor(cmd.Context()) },
	}
}

func (p *program) doctor(ctx context.Context) error {
	values, err := p.settings("pointer-store", "groups")
	if err != nil {
		return err
	}
	var cfg aws.Config
	var awsErr error
	parts, err := assemble(ctx, values, p.configFile, job{verb: verbDoctor}, func() (aws.Config, error) {
		cfg, awsErr = loadAWS(ctx)
		return cfg, nil // the rest can be looked at all the same
	})
	if err != nil {
		return err
	}
	defer func() { _ = parts.volume.close() }()
	write := doctor.Printer(p.stdout, p.getenv)
	account := check(checkAccount, nil, func(context.Context) (string, error) { return "Region " + cfg.Region, awsErr })
	report, err := doctor.Run(ctx, append([]doctor.Check{account}, parts.doctorChecks()...), checkTime, func(f doctor.Finding) {
		if p.output != cli.JSON {
			_ = write(f) // a reader that is gone: the exit code still tells
		}
	})
	if err != nil {
		return err
	}
	if p.output == cli.JSON {
		if err := p.printJSON(report); err != nil {
			return err
		}
	}
	return report.Err()
}

// check makes a check of a function that says what it found, or what is wrong.
func check(name string, needs []string, do func(context.Context) (string, error)) doctor.Check {
	return doctor.Check{Name: name, Needs: needs, Do: func(ctx context.Context) doctor.Finding {
		return doctor.Found(do(ctx))
	}}
}
