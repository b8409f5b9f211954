// Package checks looks at everything that a boot of this machine needs, from its configuration to
// what waits for the release, and says what to do. It changes nothing.
package checks

import (
	"context"
	"io"
	"log/slog"
	"time"

	"ebs-release/internal/doctor"
	"ebs-release/internal/instance"
	"ebs-release/internal/pointer"
	"ebs-release/internal/status"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Timeout ends a check that hangs. Every answer waited for comes within a second when all is well.
const Timeout = 4 * time.Second

// Settings are those of a boot.
type Settings struct {
	Pointer    string         // its URL; may be empty
	Trusted    []string       // trusted-keys
	Least      int64          // min-generation
	ConfigFile string         // where it can be set
	Volume     volume.Request // the release volume, but for which instance and of which snapshot
	RunDir     status.Dir
	LaunchHook string // its name; may be empty
}

// Checks is what the checks share: later ones use what earlier ones found.
type Checks struct {
	settings Settings
	root     string // "/", of the files it looks at
	run      func(ctx context.Context, stdout io.Writer, program string, args ...string) error
	space    func(pid string) (string, error) // the mount namespace of a process
	log      *slog.Logger                     // of the parts; nobody reads it

	cfg      *aws.Config        // after the region
	api      *ec2.Client        // after the credentials
	me       *instance.Identity // after the metadata service
	pointer  *pointer.Fetched
	snapshot string          // id; empty: not known
	found    *types.Snapshot // as EC2 sees it; nil: not seen
	mine     []volume.Volume
	denied   bool // DescribeVolumes was: mine says nothing
}

// New returns the checks of this machine.
func New(s Settings) *Checks {
	return &Checks{settings: s, root: "/", run: runProgram, space: mountNamespace, log: slog.New(slog.DiscardHandler)}
}

// List is in the order of the boot, then what surrounds it.
func (c *Checks) List() []doctor.Check {
	return []doctor.Check{
		{Name: "configuration", Do: c.configuration},
		{Name: "metadata service", Do: c.metadata},
		{Name: "region", Do: c.region},
		{Name: "credentials", Do: c.credentials},
		{Name: "pointer", Do: c.readPointer},
		{Name: "signature", Do: c.signature},
		{Name: "clock", Do: c.clock},
		{Name: "ec2:DescribeVolumes", Do: c.describeVolumes},
		{Name: "ec2:DescribeSnapshots", Do: c.describeSnapshot},
		{Name: "KMS key", Do: c.kmsKey},
		{Name: "ec2:CreateVolume", Do: c.createVolume},
		{Name: "ec2:AttachVolume", Do: c.attachVolume},
		{Name: "ec2:ModifyInstanceAttribute", Do: c.modifyInstance},
		{Name: "ec2:CreateTags", Do: c.createTags},
		{Name: "reports", Do: c.reports},
		{Name: "brought volume", Do: c.broughtVolume},
		{Name: "initialization", Do: c.loading},
		{Name: "launch hook", Do: c.launchHook},
		{Name: "ec2:DetachVolume", Do: c.detachVolume},
		{Name: "ec2:DeleteVolume", Do: c.deleteVolume},
		{Name: "device names", Do: c.deviceNames},
		{Name: "mount point", Do: c.mountPoint},
		{Name: "writing", Do: c.writing},
		{Name: "mount propagation", Do: c.mountPropagation},
		{Name: "e2fsck", Do: c.e2fsck},
		{Name: "ssh host key", Do: c.sshHostKey},
		{Name: "unit", Do: c.unit},
		{Name: "application", Do: c.application},
		{Name: "ordering", Do: c.ordering},
		{Name: "last boot", Do: c.lastBoot},
	}
}
