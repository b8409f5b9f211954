package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"ebs-release/internal/config"
	"ebs-release/internal/exit"
	"ebs-release/internal/instance"
	"ebs-release/internal/pointer"
	"ebs-release/internal/status"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/spf13/cobra"
)

// The states of a check.
const (
	stateOK   = "ok"
	stateWarn = "warn" // the boot may go through all the same
	stateFail = "FAIL"
)

// checkTimeout ends a check that hangs. Every answer waited for comes within a second when all is well.
const checkTimeout = 4 * time.Second

// finding is what a check came to, one line.
type finding struct {
	Name  string `json:"name"`
	State string `json:"state"`
	Says  string `json:"says"`
	Try   string `json:"try,omitempty"`
}

func ok(format string, args ...any) finding {
	return finding{State: stateOK, Says: fmt.Sprintf(format, args...)}
}

func warn(try, format string, args ...any) finding {
	return finding{State: stateWarn, Says: fmt.Sprintf(format, args...), Try: try}
}

func fail(try, format string, args ...any) finding {
	return finding{State: stateFail, Says: fmt.Sprintf(format, args...), Try: try}
}

// check looks at one thing. None changes anything.
type check struct {
	name string
	do   func(context.Context) finding
}

// doctor is what the checks share: later ones use what earlier ones found.
type doctor struct {
	values  config.Values
	runDir  status.Dir
	root    string // "/", of the files it looks at
	run     func(ctx context.Context, stdout io.Writer, program string, args ...string) error
	space   func(pid string) (string, error) // the mount namespace of a process
	timeout time.Duration                    // of one check
	log     *slog.Logger                     // of the parts; nobody reads it

	cfg       *aws.Config        // after the region
	api       *ec2.Client        // after the credentials
	me        *instance.Identity // after the metadata service
	pointer   *pointer.Pointer
	snapshot  string // id; empty: not known
	encrypted bool
	key       string
	mine      []volume.Volume
	denied    bool // DescribeVolumes was: mine says nothing
}

// checks are in the order of the boot, then what surrounds it.
func (d *doctor) checks() []check {
	return []check{
		{"configuration", d.configuration},
		{"metadata service", d.metadata},
		{"region", d.region},
		{"credentials", d.credentials},
		{"pointer", d.readPointer},
		{"clock", d.clock},
		{"ec2:DescribeVolumes", d.describeVolumes},
		{"ec2:DescribeSnapshots", d.describeSnapshot},
		{"KMS key", d.kmsKey},
		{"ec2:CreateVolume", d.createVolume},
		{"ec2:AttachVolume", d.attachVolume},
		{"ec2:ModifyInstanceAttribute", d.modifyInstance},
		{"ec2:CreateTags", d.createTags},
		{"ec2:DetachVolume", d.detachVolume},
		{"ec2:DeleteVolume", d.deleteVolume},
		{"device names", d.deviceNames},
		{"mount point", d.mountPoint},
		{"writing", d.writing},
		{"mount propagation", d.mountPropagation},
		{"e2fsck", d.e2fsck},
		{"ssh host key", d.sshHostKey},
		{"unit", d.unit},
		{"application", d.application},
		{"ordering", d.ordering},
		{"last boot", d.lastBoot},
	}
}

func (p *program) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look at everything that a boot needs, and say what to do; exit 1 when something is wrong",
		Long: `Look at everything that a boot needs: the metadata service, the role's rights (by DryRun), the pointer, the snapshot, the mount point, the unit.
One line each: ok, warn (the boot may go through all the same) or FAIL, with what to do. It changes nothing, and works before a release exists.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			values, err := p.settings()
			if err != nil {
				return err
			}
			d := &doctor{values: values, runDir: p.runDir, root: "/", run: runProgram, space: mountNamespace, timeout: checkTimeout, log: slog.New(slog.DiscardHandler)}
			return p.diagnose(cmd.Context(), d)
		},
	}
}

// diagnose makes the checks and prints each line as it is known.
func (p *program) diagnose(ctx context.Context, d *doctor) error {
	var found []finding
	failed, worst := 0, stateOK
	for _, c := range d.checks() {
		f := d.look(ctx, c)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch f.State {
		case stateFail:
			failed, worst = failed+1, stateFail
		case stateWarn:
			if worst == stateOK {
				worst = stateWarn
			}
		}
		found = append(found, f)
		if p.output != status.JSON {
			if _, err := fmt.Fprintln(p.stdout, f); err != nil {
				return fmt.Errorf("write the report: %w", err)
			}
		}
	}
	if p.output == status.JSON {
		err := status.PrintJSON(p.stdout, struct {
			Schema int       `json:"schema"`
			State  string    `json:"state"`
			Checks []finding `json:"checks"`
		}{status.Schema, worst, found})
		if err != nil {
			return err
		}
	}
	if failed > 0 {
		return exit.With(exit.Failed, fmt.Errorf("doctor: %d of %d checks failed", failed, len(found)))
	}
	return nil
}

func (d *doctor) look(ctx context.Context, c check) finding {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	f := c.do(ctx)
	f.Name = c.name
	return f
}

// String is the line of a check.
func (f finding) String() string {
	line := fmt.Sprintf("%-5s %-28s %s", f.State, f.Name, f.Says)
	if f.Try != "" {
		line += ". Try: " + f.Try
	}
	return line
}
