package main

import (
	"context"
	"fmt"

	"ebs-release/internal/boot/checks"
	"ebs-release/internal/cli"
	"ebs-release/internal/doctor"
	"ebs-release/internal/exit"

	"github.com/spf13/cobra"
)

func (p *program) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check everything that a boot needs, and say what to do",
		Long: `Check everything that a boot needs: the metadata service, the role's rights
(with DryRun), the pointer, the snapshot, the mount point, the unit; and the
programs that run around a new release. Each check prints one line: ok, warn
(the boot may work all the same) or FAIL, with what to do. Nothing is changed,
and it works before a release exists. Exit 1: a check failed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			values, err := p.settings()
			if err != nil {
				return err
			}
			list := checks.New(checks.Settings{
				Pointer: values.Get("pointer"), Trusted: values.List("trusted-keys"), Least: int64(values.Int("min-generation")),
				ConfigFile: defaultConfigFile, RunDir: p.runDir, LaunchHook: values.Get("launch-hook"),
				Volume: volumeRequest(values),
			}).List()
			return p.diagnose(cmd.Context(), append(list, p.checkPrograms(programsFolder), p.checkWarm(values)))
		},
	}
}

// diagnose makes checks and prints each line as it is known.
func (p *program) diagnose(ctx context.Context, list []doctor.Check) error {
	var writeErr error
	write := doctor.Printer(p.stdout, p.getenv)
	report, err := doctor.Run(ctx, list, checks.Timeout, func(f doctor.Finding) {
		if p.output != cli.JSON && writeErr == nil {
			writeErr = write(f)
		}
	})
	if err != nil {
		return err
	}
	if p.output == cli.JSON {
		writeErr = cli.PrintJSON(p.stdout, report)
	}
	if writeErr != nil {
		return fmt.Errorf("write the report: %w", writeErr)
	}
	if err := report.Err(); err != nil {
		return exit.With(exit.Failed, err)
	}
	return nil
}
