package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"ebs-release/internal/cli"
	"ebs-release/internal/config"
	"ebs-release/internal/doctor"
	"ebs-release/internal/exit"
	"ebs-release/internal/instance"
	"ebs-release/internal/pointer"
	"ebs-release/internal/status"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/spf13/cobra"
)

// checkTimeout ends a check that hangs. Every answer waited for comes within a second when all is
// well.
const checkTimeout = 4 * time.Second

// bootChecks is what the checks share: later ones use what earlier ones found.
type bootChecks struct {
	values  config.Values
	runDir  status.Dir
	root    string // "/", of the files it looks at
	run     func(ctx context.Context, stdout io.Writer, program string, args ...string) error
	space   func(pid string) (string, error) // the mount namespace of a process
	timeout time.Duration                    // of one check
	log     *slog.Logger                     // of the parts; nobody reads it

	cfg      *aws.Config        // after the region
	api      *ec2.Client        // after the credentials
	me       *instance.Identity // after the metadata service
	pointer  *pointer.Pointer
	snapshot string          // id; empty: not known
	found    *types.Snapshot // as EC2 sees it; nil: not seen
	mine     []volume.Volume
	denied   bool // DescribeVolumes was: mine says nothing
}

// checks are in the order of the boot, then what surrounds it.
func (d *bootChecks) checks() []doctor.Check {
	return []doctor.Check{
		{Name: "configuration", Do: d.configuration},
		{Name: "metadata service", Do: d.metadata},
		{Name: "region", Do: d.region},
		{Name: "credentials", Do: d.credentials},
		{Name: "pointer", Do: d.readPointer},
		{Name: "clock", Do: d.clock},
		{Name: "ec2:DescribeVolumes", Do: d.describeVolumes},
		{Name: "ec2:DescribeSnapshots", Do: d.describeSnapshot},
		{Name: "KMS key", Do: d.kmsKey},
		{Name: "ec2:CreateVolume", Do: d.createVolume},
		{Name: "ec2:AttachVolume", Do: d.attachVolume},
		{Name: "ec2:ModifyInstanceAttribute", Do: d.modifyInstance},
		{Name: "ec2:CreateTags", Do: d.createTags},
		{Name: "ec2:DetachVolume", Do: d.detachVolume},
		{Name: "ec2:DeleteVolume", Do: d.deleteVolume},
		{Name: "device names", Do: d.deviceNames},
		{Name: "mount point", Do: d.mountPoint},
		{Name: "writing", Do: d.writing},
		{Name: "mount propagation", Do: d.mountPropagation},
		{Name: "e2fsck", Do: d.e2fsck},
		{Name: "ssh host key", Do: d.sshHostKey},
		{Name: "unit", Do: d.unit},
		{Name: "application", Do: d.application},
		{Name: "ordering", Do: d.ordering},
		{Name: "last boot", Do: d.lastBoot},
	}
}

func (p *program) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check everything that a boot needs, and say what to do",
		Long: `Check everything that a boot needs: the metadata service, the role's rights
(with DryRun), the pointer, the snapshot, the mount point, the unit. Each check
prints one line: ok, warn (the boot may work all the same) or FAIL, with what to
do. Nothing is changed, and it works before a release exists. Exit 1: a check
failed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			values, err := p.settings()
			if err != nil {
				return err
			}
			d := &bootChecks{values: values, runDir: p.runDir, root: "/",
				run: runProgram, space: mountNamespace, timeout: checkTimeout, log: slog.New(slog.DiscardHandler)}
			return p.diagnose(cmd.Context(), d)
		},
	}
}

// diagnose makes the checks and prints each line as it is known.
func (p *program) diagnose(ctx context.Context, d *bootChecks) error {
	var writeErr error
	write := doctor.Printer(p.stdout, p.getenv)
	report, err := doctor.Run(ctx, d.checks(), d.timeout, func(f doctor.Finding) {
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
