package main

import (
	"context"
	"io"
	"path/filepath"
	"time"

	"ebs-release/internal/cli"
	"ebs-release/internal/doctor"
	"ebs-release/internal/fleet"
	"ebs-release/internal/publish/checks"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/spf13/cobra"
)

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
	report, err := doctor.Run(ctx, parts.doctor(awsErr).List(), checkTime, func(f doctor.Finding) {
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

// doctor is what the checks look at. account is why nothing can be asked of AWS.
func (p *parts) doctor(account error) *checks.Doctor {
	return &checks.Doctor{
		Checks: p.checks, Region: p.Settings.Region, Account: account, Parallel: p.Settings.Parallel, MostLag: p.values.Duration("snapshot-lag"),
		Healthy: p.values.Get("healthy"), Rolls: p.values.Get("steps") != "", FollowedTemplates: p.templates.keeper.Templates,
		PublishPrograms: []string{
			filepath.Join(hooksFolder, hookBefore), filepath.Join(hooksFolder, hookVerify), filepath.Join(hooksFolder, hookAfter),
		},
		RolloutPrograms: rolloutFolder,
		Members:         p.members.List, Health: p.Health, Templates: p.templates,
		Dial: func(ctx context.Context, m fleet.Member) (io.Closer, error) { return p.dialer.Dial(ctx, m) },
	}
}
